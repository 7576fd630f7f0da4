"""What lies beside a video is understood from any editor, or the video is dropped with the byte that is wrong."""

from pathlib import Path

import numpy as np
import pytest

from data.footage.sidecar import read_sidecar
from data.footage.video_file import UnusableError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_from_any_editor_are_alike(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes("caf\u00e9\r\n".encode(encoding))
    (tmp_path / "a.json").write_bytes('{"identity": "Zo\u00eb"}'.encode(encoding))
    side = read_sidecar(tmp_path / "a.mp4")
    assert (side.caption, side.person) == ("caf\u00e9", "Zo\u00eb")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", "it\u2019s".encode("cp1252"), ["byte 2 (0x92, line 1)", "cp1252", "iconv"]),
        ("a.json", b'{"caption": "x",}', ["must be JSON", "line 1, column"]),
        ("a.json", b"[1]", ["one JSON object", "list"]),
        ("a.json", b'{"captions": [[0, 1]]}', ["[start_s, end_s, text]"]),
        ("a.npz", b"PK\x03\x04 cut off", ["numpy.savez", "Write it again"]),
        ("a.npz", b"", ["numpy.savez"]),
    ],
)
def test_what_cannot_be_understood_is_told_in_words(tmp_path: Path, name: str, data: bytes, words: list[str]):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnusableError) as caught:
        read_sidecar(tmp_path / "a.mp4")
    assert caught.value.reason == "bad_sidecar" and caught.value.detail.startswith(f"{name} must ")
    assert all(word in caught.value.detail for word in words), caught.value.detail


def test_a_missing_array_is_named(tmp_path: Path):
    np.savez(tmp_path / "a.npz", times=np.arange(3))
    with pytest.raises(UnusableError, match=r"arrays actions and times, or actions and fps \(actions is not"):
        read_sidecar(tmp_path / "a.mp4")
