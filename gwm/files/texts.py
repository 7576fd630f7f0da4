"""Text that people write: UTF-8 with or without a byte-order mark, UTF-16 with one, any line ends."""

import codecs
import json
from pathlib import Path
from typing import Any

from gwm.files.checks import LFS_POINTER, check_file

# The longer mark first: that of UTF-32 little-endian begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path) -> str:
    """The text of a file, without its byte-order mark and with \\n at the end of each line.

    Raises:
        ValueError: the file cannot be opened, or is in another encoding; the message names the byte and the remedy.
    """
    path = Path(path)
    if not (path.is_file() and not path.stat().st_size):  # an empty text is a text
        check_file(path, "a text file")
    return decode_text(path.read_bytes(), str(path))


def decode_text(data: bytes, name: str) -> str:
    """As `read_text`, of bytes that came from `name`."""
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        byte, line = data[error.start], data.count(b"\n", 0, error.start) + 1
        guess = "utf-16le" if _is_utf16(data) else "cp1252"
        raise ValueError(
            f"{name} must be UTF-8 text, and byte {error.start} (0x{byte:02x}, line {line}) is none; its encoding may "
            f"be {guess}. Save it as UTF-8: iconv -f {guess} -t utf-8 OLD > NEW"
        ) from error
    if "\0" in text:
        guess = "utf-16le" if _is_utf16(data) else "utf-16be"
        raise ValueError(
            f"{name} must be UTF-8 text, and holds zero bytes; its encoding may be {guess} without a byte-order mark. "
            f"Save it as UTF-8: iconv -f {guess} -t utf-8 OLD > NEW"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: as `read_text`, or the text is not JSON; the message names line and column.
    """
    return decode_json(read_text(path), str(path))


def decode_json(text: str, name: str) -> Any:
    """As `read_json`, of text that came from `name`."""
    if text.startswith(LFS_POINTER.decode()):
        raise ValueError(
            f"{name} is a git-LFS pointer: the file itself was not downloaded. Run: git lfs pull, in its folder."
        )
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name} must be JSON: {error.msg} at line {error.lineno}, column {error.colno}. Correct that line, or "
            "write the file again."
        ) from error


def _is_utf16(data: bytes) -> bool:
    """Whether every second byte is mostly zero, as Latin text in UTF-16 little-endian has it."""
    odd = data[1:400:2]
    return bool(odd) and odd.count(0) > len(odd) // 2
