"""Files that people give: whether they can be opened, and what they are where a reader cannot use them."""

import stat
from pathlib import Path

HEAD_BYTES = 512
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# First bytes, and what a file that starts with them is; the first match counts.
KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document: export the page as PNG or JPEG"),
    (b"PK\x03\x04", "a zip archive: unpack it and name a file of it"),
    (b"\x1f\x8b", "gzip data: unpack it and name the file"),
    (b"RIFF", "a WAV sound, AVI video or WebP picture"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "Ogg sound or video"),
    (b"ID3", "an MP3 sound"),
    (b"fLaC", "a FLAC sound"),
)


def check_file(path: str | Path, rule: str) -> None:
    """Refuse what is no readable file with content; `rule` completes "must be".

    Raises:
        ValueError: nothing is there, it is a folder or a device, it may not be read, it is empty or a git-LFS pointer.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a folder, must be {rule}. Name one file in it.")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is a pipe or a device, must be {rule}. Save the stream to a file first.")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except PermissionError as error:
        raise ValueError(
            f"{path} must be {rule}, and this user may not read it. Change its permissions: chmod u+r, or its owner."
        ) from error
    except OSError as error:  # nothing there, a link to nothing or to itself, a name that is too long
        raise ValueError(
            f"{path} does not exist, must be {rule}. Check the path; relative ones start at {Path.cwd()}."
        ) from error
    if not head:
        raise ValueError(f"{path} must be {rule}, and is empty (0 bytes). Copy or download it again.")
    if head.startswith(LFS_POINTER):
        raise ValueError(
            f"{path} must be {rule}, and is a git-LFS pointer: the file itself was not downloaded. Run: git lfs pull"
        )


def seen_kind(path: str | Path) -> str:
    """One sentence about what the first bytes of a file show, with the remedy; empty where they show nothing."""
    with Path(path).open("rb") as file:
        kind = kind_of(file.read(HEAD_BYTES))
    return f" Its first bytes are those of {kind}." if kind else ""


def kind_of(head: bytes) -> str:
    """What a file is by its first bytes; empty where they are not known."""
    if head[4:8] == b"ftyp":
        if head[8:12] in HEIF_BRANDS:
            return (
                "a HEIC photograph: save it as JPEG or PNG (heif-convert photo.heic photo.jpg; on an iPhone: "
                "Settings, Camera, Formats, Most Compatible)"
            )
        return "an AVIF picture" if head[8:12] in (b"avif", b"avis") else "an MP4 or MOV video"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, such as an error page saved in place of the file: download the file itself"
    if start.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML text: export the drawing as PNG"
    return next((name for magic, name in KINDS if head.startswith(magic)), "")
