"""What a dub takes of one core: python -m serve.bench.dub_time out=dub.json

A photograph that moves a little is dubbed, in films of two lengths and sizes. Time of the processor is measured, which
other processes hardly change.
"""

import logging
import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from configs.command.main import command
from gwm.clock import FPS
from gwm.media.video import write_video
from serve.bench.report import keep_json, machine
from serve.live.log_lines import log_to_stdout
from serve.samples import sample_path

log = logging.getLogger(__name__)


def write_still(path: Path, *, height: int, pictures: int) -> None:
    """A photograph that goes to and fro by a few px."""
    face = Image.open(sample_path("portrait")).convert("RGB")
    face = np.asarray(face.resize((round(face.width * height / face.height), height)))
    width = height * 16 // 9 // 2 * 2
    whole, left = np.full((height, width, 3), 90, np.uint8), (width - face.shape[1]) // 2
    whole[:, left : left + face.shape[1]] = face
    write_video(path, (np.roll(whole, round(6 * np.sin(number / 6)), axis=1) for number in range(pictures)), None)


def dub_cpu_s(video: Path) -> float:
    """Seconds of the processor that `serve.dub` takes, from its start to its end."""
    words = [f"video={video}", f"audio={sample_path('speech')}", f"out={video.with_suffix('.mkv')}", "resume=false"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "serve.dub", *words], check=True, env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@command("bench_dub")
def main(cfg: DictConfig) -> None:
    log_to_stdout(as_json=False)
    sizes = dict[str, Any]()
    few, many = cfg.pictures
    with TemporaryDirectory() as folder:
        for height in cfg.heights:
            took = []
            for pictures in (few, many):
                video = Path(folder) / f"{height}-{pictures}.mp4"
                write_still(video, height=height, pictures=pictures)
                took.append(dub_cpu_s(video))
                log.info("%d px, %d pictures: %.1f s of a core", height, pictures, took[-1])
            each = (took[1] - took[0]) / (many - few)
            sizes[f"{height} px"] = {
                "few_cpu_s": round(took[0], 2),
                "many_cpu_s": round(took[1], 2),
                "picture_cpu_s": round(each, 4),
                "start_cpu_s": round(took[0] - few * each, 2),
                "second_of_film_cpu_s": round(FPS * each, 2),
            }
    found = {
        "command": " ".join(["python -m serve.bench.dub_time", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
    }
    found |= {"pictures": list(cfg.pictures), "sizes": sizes}
    log.info("%s", keep_json(found, cfg.out))


if __name__ == "__main__":
    main()
