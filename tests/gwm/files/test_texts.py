"""Text from any editor is read alike, or refused with the byte that is wrong and the command that mends it."""

from pathlib import Path

import pytest

from gwm.files.texts import read_json, read_text

TEXT = "caf\u00e9 \u2014 \u6f22\nsecond\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_leave_no_trace(tmp_path: Path, encoding: str, ends: str):
    (tmp_path / "a.txt").write_bytes(TEXT.replace("\n", ends).encode(encoding))
    assert read_text(tmp_path / "a.txt") == TEXT


def test_big_endian_is_told_by_its_mark(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_text(tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("line\nit\u2019s".encode("cp1252"), r"byte 7 \(0x92, line 2\).*cp1252.*iconv -f cp1252"),
        ("ab\n".encode("utf-16-le"), r"zero bytes.*utf-16le without a byte-order mark"),
        ("ab\n".encode("utf-16-be"), r"zero bytes.*utf-16be"),
        (b"\xff\xfea", r"byte 2"),  # half a character
    ],
)
def test_other_encodings_are_refused_with_byte_and_command(tmp_path: Path, data: bytes, words: str):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.txt must be UTF-8 text.*{words}"):
        read_text(tmp_path / "a.txt")


def test_an_empty_text_is_a_text(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"")
    assert read_text(tmp_path / "a.txt") == ""


def test_wrong_json_is_named_with_line_and_column(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": 1,\n "b" 2}')
    with pytest.raises(ValueError, match=r"a\.json must be JSON.*line 2, column 6"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
