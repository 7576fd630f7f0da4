"""A film as windows that overlap: each is edited behind the pictures that the one before has made, and kept on disk, so
that an edit which is interrupted goes on where it was."""

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from gwm.files.outputs import write_tensors
from gwm.files.tensors import read_json, read_tensor_file
from gwm.weights import write_json
from serve.editing.editors import Editor
from serve.editing.request import EditRequest

log = logging.getLogger(__name__)

KEY = "edit.json"
AGAIN = "Delete the folder, and edit again."
UNUSED = ("out", "workers")  # settings that change no picture
Seen = tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]  # a picture and its mask, in the model's size


class Kept:
    """Edited windows in a folder beside the film, until that is written."""

    def __init__(self, request: EditRequest) -> None:
        """
        Raises:
            ValueError: the folder is of another edit.
        """
        out = Path(request.out).absolute()
        self.folder = out.with_name(f"{out.name}.parts")
        key = {name: str(value) for name, value in vars(request).items() if name not in UNUSED}
        for name in ("video", "mask", "image"):
            if (path := vars(request)[name]) is not None and Path(path).is_file():
                with Path(path).open("rb") as file:
                    key[f"{name} sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        self.key, self.place = key, self.folder / KEY
        old = read_json(self.place) if self.place.exists() else key
        if differing := sorted(name for name in key.keys() | old.keys() if key.get(name) != old.get(name)):
            raise ValueError(
                f"{self.folder} has windows of an edit with another {', '.join(differing)}. Delete the folder, or give "
                "another out=."
            )

    def path(self, first: int) -> Path:
        return self.folder / f"{first:08d}.safetensors"

    def read(self, first: int) -> UInt8[np.ndarray, "t h w 3"] | None:
        path = self.path(first)
        return read_tensor_file(path, remedy=AGAIN)["pictures"].numpy() if path.exists() else None

    def write(self, first: int, pictures: UInt8[np.ndarray, "t h w 3"]) -> None:
        if not self.place.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.place, self.key)
        write_tensors(self.path(first), {"pictures": torch.from_numpy(np.ascontiguousarray(pictures))})

    def pictures(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """All of the film's, in order."""
        for path in sorted(self.folder.glob("*.safetensors")):
            yield from read_tensor_file(path, remedy=AGAIN)["pictures"].numpy()

    def remove(self) -> None:
        for path in [*self.folder.glob("*.safetensors"), self.folder / KEY]:
            path.unlink(missing_ok=True)
        self.folder.rmdir()


@dataclass(frozen=True)
class Windows:
    """The windows of a film: all of one length, each the pictures behind those that the one before has made."""

    length: int
    overlap: int
    chains: list[int]  # of each window; those of one chain depend on each other, in their order

    @classmethod
    def of(cls, drawn: Sequence[bool], *, length: int, overlap: int) -> "Windows":
        """drawn: whether anything of each picture is. A window that begins with pictures of which nothing is drawn
        begins a chain: they are as in the film, whatever became of the window before.

        Raises:
            ValueError: an overlap as long as a window, of a film of several.
        """
        if overlap >= length < len(drawn):
            raise ValueError(
                f"overlap={overlap} must be below window={length}, both in pictures: a window must add some."
            )
        count = 1 if len(drawn) <= length else 1 + -(-(len(drawn) - length) // (length - overlap))
        chains = [0]
        for first in [number * (length - overlap) for number in range(1, count)]:
            chains.append(chains[-1] + (not any(drawn[first : first + overlap])))
        return cls(length, overlap, chains)


def edit_windows(
    seen: Iterable[Seen], editor: Editor, kept: Kept, windows: Windows, *, mine: Collection[int], shown: bool
) -> None:
    """Edit a film window by window into `kept`: each file has the pictures that its window adds. The last `overlap`
    pictures of a window are known to the next; a window with nothing to draw stays.

    mine: the windows that are edited, whole chains; of the others only the pictures are played. shown: a bar.
    """
    passes, source, first = 0, iter(seen), 0
    before: list[Seen] = []
    with tqdm(desc="edit", total=len(mine), unit="window", disable=not shown) as bar:

        def counted(*_: object) -> None:  # what a hook returns would take the place of the prediction
            nonlocal passes
            passes += 1
            bar.set_postfix_str(f"{passes} passes of the network")

        hook = editor.artifact.dit.register_forward_hook(counted)
        try:
            for number in range(len(windows.chains)):
                window = before + [pair for _, pair in zip(range(windows.length - len(before)), source)]
                if number in mine:
                    made = _window(window, editor, kept, first=first, known=len(before), length=windows.length)
                    bar.update()
                else:
                    made = np.stack([picture for picture, _ in window])
                first += len(made) - windows.overlap
                last = made[len(made) - windows.overlap :]
                before = [(picture, np.zeros(picture.shape[:2], bool)) for picture in last]
        finally:
            hook.remove()


def _window(
    window: list[Seen], editor: Editor, kept: Kept, *, first: int, known: int, length: int
) -> UInt8[np.ndarray, "t h w 3"]:
    """All pictures of a window; those after the `known` ones are kept."""
    pictures, drawn = np.stack([picture for picture, _ in window]), np.stack([mask for _, mask in window])
    new = kept.read(first + known)
    if new is None:
        made = pictures
        if drawn.any():
            more = [(0, length - len(window))]  # the last picture stays until the window ends
            whole = np.pad(pictures, [*more, (0, 0), (0, 0), (0, 0)], mode="edge")
            where = np.pad(drawn, [*more, (0, 0), (0, 0)], mode="edge")
            made = np.where(drawn[..., None], editor(whole, where, first=first)[: len(window)], pictures)
        new = made[known:]
        kept.write(first + known, new)
    return np.concatenate([pictures[:known], new])
