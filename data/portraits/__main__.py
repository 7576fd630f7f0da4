"""Make the portraits that `make serve` shows: `python -m data.portraits`. See configs/portraits.yaml.

Two people are grown, lit and photographed (`cast`, `studio`); one character is a drawing, CC0 like them (`pip.svg`).
"""

import io
import logging
import time
from pathlib import Path

import numpy as np
import resvg_py
from jaxtyping import UInt8
from omegaconf import DictConfig
from PIL import Image

from configs.command.main import command
from data.portraits.cast import PEOPLE, Person, lights, sitting
from data.portraits.develop import develop, room
from data.portraits.studio import Studio
from gwm.files.outputs import whole_file

log = logging.getLogger(__name__)

DRAWINGS = {path.stem: path for path in Path(__file__).parent.glob("*.svg")}
NAMES = (*PEOPLE, *DRAWINGS)
SUPERSAMPLING = 3  # per axis
QUALITY = 88  # of JPEG
LARGEST = 2048  # px along each side


def photograph(who: Person, *, size: int, lamps: float) -> UInt8[np.ndarray, "n n 3"]:
    """A person in the studio; `lamps` is the share of the usual number of lights."""
    side = SUPERSAMPLING * size
    posed, studio = sitting(who), Studio(side)
    studio.write(posed.shapes, posed.strands, posed.camera)
    negative = studio.shoot(lights(lamps))
    backdrop = room(side, who.room, seed=3)
    return develop(negative, backdrop, side / (1000 * posed.camera.height), size)


def drawing(name: str, size: int) -> UInt8[np.ndarray, "n n 3"]:
    png = resvg_py.svg_to_bytes(svg_string=DRAWINGS[name].read_text(), width=size, height=size)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def check(names: list[str], size: int, lamps: float) -> None:
    """
    Raises:
        ValueError: nobody has such a name, or a number is outside of its limits.
    """
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(f"names={unknown} must be of {sorted(NAMES)}.")
    if not 64 <= size <= LARGEST:
        raise ValueError(f"size={size} must be in [64, {LARGEST}]: nine times as many pixels are kept in memory.")
    if not 0.1 <= lamps <= 10:
        raise ValueError(f"lamps={lamps} must be in [0.1, 10]: each group of lights needs one. 1 is usual.")


@command("portraits", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    check(list(cfg.names), cfg.size, cfg.lamps)
    for name in cfg.names:
        start = time.time()
        if name in PEOPLE:
            picture = photograph(PEOPLE[name], size=cfg.size, lamps=cfg.lamps)
        else:
            picture = drawing(name, cfg.size)
        path = Path(cfg.out) / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            Image.fromarray(picture).save(partial, "JPEG", quality=QUALITY, optimize=True)
        log.info("%s: %d px, %.0f s", path, cfg.size, time.time() - start)


if __name__ == "__main__":
    main()
