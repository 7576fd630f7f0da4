"""Edits of a film: parts drawn anew, a larger frame, another prompt; the rest stays to the bit until it is encoded.

python -m serve.edit video=in.mp4 artifact=DIR box=[64,32,128,96] prompt="an empty street" out=out.mp4
python -m serve.edit video=in.mp4 artifact=DIR mask=mask.png out=out.mp4        white is drawn anew; or a video
python -m serve.edit video=in.mp4 artifact=DIR mask=mouth out=out.mp4           the mouth of the most visible face
python -m serve.edit video=in.mp4 artifact=DIR canvas=720x1280 out=out.mp4      a larger frame around the film
python -m serve.edit video=in.mp4 artifact=DIR between=[1,2.5] out=out.mp4      what happens between two times
python -m serve.edit video=in.mp4 artifact=DIR source="a cat" prompt="a dog" out=out.mp4     another prompt (FlowEdit)

Any flow model does, without training: a published Wan text-to-video folder, weights of a stage, an artifact. The film
is edited in windows that overlap. They are kept in OUT.parts until the film is written: the same command goes on where
it was interrupted.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from configs.command.main import command
from gwm.media.images import read_image
from gwm.media.refilm import FINEST, SOUND_RATE, open_film, refilm
from gwm.media.stored_picture import redrawn
from gwm.media.video import sound_blocks
from serve.dubbing.tracks import Survey
from serve.editing.editors import ClipEditor, Editor, StreamEditor
from serve.editing.regions import Drawn, Pictures, Regions, pictures_of, survey_of
from serve.editing.request import EditRequest
from serve.editing.view import View, view_of
from serve.editing.windows import Kept, Seen, Windows, edit_windows
from serve.published_clip import is_published
from serve.tuning import choose_threads, one_step
from serve.workers import beside, device_of

log = logging.getLogger(__name__)


def edit(request: EditRequest) -> None:
    """Write the edited film.

    Raises:
        FileNotFoundError: a part of the model is missing.
        ValueError: film, mask, times, model or `out` cannot be used; the message names the setting.
        RuntimeError: a window does not fit into memory.
        OSError: the film cannot be written; nothing is left of it.
    """
    request.check()
    with tempfile.TemporaryDirectory(prefix="gwm-edit-") as folder:
        survey = survey_of(request, Path(folder))
        regions = Regions(request, survey)
        regions.check()
        editor, view = _model(request, regions, device_of(0))
        kept, num_frames, drawn = Kept(request), len(survey.moments_s), list[bool]()
        for one in regions:
            view.check(one)
            drawn.append(bool(one.any()))
        windows = Windows.of(drawn, length=editor.length(num_frames), overlap=request.overlap)
        workers = min(request.workers, 1 + max(windows.chains))
        if workers < request.workers:
            log.warning(
                "workers=%d: %d here, as no more windows are independent of each other; with overlap=0 each is",
                *(request.workers, workers),
            )
        with beside(_edit_part, request, survey, windows, workers, workers=workers):
            _edit_all(0, workers, request, regions, windows, editor, view)
        with open_film(request.video) as film:
            made = written(pictures_of(film, request), regions, view, kept.pictures())
            bar = tqdm(made, desc="write", total=num_frames, unit="picture")
            pictures = ((moment_s, frame) for moment_s, frame, _ in bar)
            length_s = refilm(request.out, film, pictures, _sound(request.video), quality=FINEST)
            for note in film.damage.notes:
                log.warning("%s: %s", request.video, note)
        kept.remove()
    log.info("%s: %.2f s, %d pictures; the model saw %s", request.out, length_s, num_frames, view)


def _model(request: EditRequest, regions: Regions, device: torch.device) -> tuple[Editor, View]:
    """The editor, and what it sees of the film."""
    published = is_published(request.artifact)
    editor: Editor = (
        ClipEditor(request, regions.size, device=device) if published else StreamEditor(request, device=device)
    )
    view = view_of(request, regions.size, editor.seen)
    if isinstance(editor, StreamEditor):
        editor.reference = _reference(request, view, regions.size)
        editor.follow(regions.survey.moments_s)
    return editor, view


def _edit_part(rank: int, request: EditRequest, survey: Survey, windows: Windows, workers: int) -> None:
    regions = Regions(request, survey)
    _edit_all(rank, workers, request, regions, windows, *_model(request, regions, device_of(rank)))


def _edit_all(
    rank: int, workers: int, request: EditRequest, regions: Regions, windows: Windows, editor: Editor, view: View
) -> None:
    """This worker's windows: those of every chain whose number is its own."""
    if isinstance(editor, StreamEditor) and workers == 1:
        choose_threads(one_step(editor.artifact), decoded=False)
    with open_film(request.video) as film:
        if not rank and abs(float(film.fps) - editor.fps) > 1:
            log.warning("%s has %.2f fps, the model knows motion at %d", request.video, film.fps, editor.fps)
        seen = _seen(pictures_of(film, request), regions, view)
        mine = {number for number, chain in enumerate(windows.chains) if chain % workers == rank}
        edit_windows(seen, editor, Kept(request), windows, mine=mine, shown=not rank)


def _seen(pictures: Pictures, regions: Regions, view: View) -> Iterator[Seen]:
    for (_, _, rgb), drawn in zip(pictures, regions, strict=True):
        yield view.picture(rgb), view.drawn(drawn)


def written(
    pictures: Pictures, regions: Regions, view: View, made: Iterator[np.ndarray]
) -> Iterator[tuple[float, av.VideoFrame, Drawn]]:
    """Pictures as they are stored, with what was made, and where that is."""
    for (moment_s, frame, rgb), drawn, own in zip(pictures, regions, made, strict=True):
        changed = redrawn(frame, rgb, view.put(rgb, own, drawn), pictures.film.turn) if drawn.any() else frame
        yield moment_s, changed, drawn


def _reference(request: EditRequest, view: View, size: tuple[int, int]) -> np.ndarray | None:
    """The picture that a stream follows, as the model sees it; None: the first of each window.

    Raises:
        ValueError: it has another size than the new film.
    """
    if request.image is None:
        return None
    image = np.asarray(read_image(request.image))
    if image.shape[:2] != size:
        raise ValueError(
            f"image={request.image} has {image.shape[1]} x {image.shape[0]} px, must have the new film's {size[1]} x "
            f"{size[0]}: it stands for a picture of it."
        )
    return view.picture(image)


def _sound(video: str) -> Iterator[np.ndarray] | None:
    with av.open(video) as container:
        if not container.streams.audio:
            return None
    return sound_blocks(video, sample_rate=SOUND_RATE)


PATHS = ("video", "mask", "image", "out", "artifact", "vae", "text_encoder")


@command("edit", verbatim=(*PATHS, "prompt", "source", "negative_prompt"))
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    edit(EditRequest(**values))


if __name__ == "__main__":
    main()
