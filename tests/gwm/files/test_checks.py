import os
from pathlib import Path

import pytest

from gwm.files.checks import check_file, kind_of


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=path.name) as caught:
        check_file(path, "a picture")
    assert "must be a picture" in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_cannot_be_opened_is_named_with_the_way_out(tmp_path: Path):
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none", "does not exist", "relative ones start at")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "does not exist")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    refused(tmp_path / "dangling", "does not exist")
    (tmp_path / "empty").write_bytes(b"")
    refused(tmp_path / "empty", "0 bytes")
    (tmp_path / "pointer").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    refused(tmp_path / "pointer", "git lfs pull")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "pipe")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root, as whom tests may run, may read everything
    refused(tmp_path / "a.png", "chmod u+r")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),
        (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"\0\0\0\x18ftypisom", "MP4"),
        (b"\xef\xbb\xbf  <!DOCTYPE html>", "web page"),
        (b"<svg xmlns=", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"hello", ""),
    ],
)
def test_kinds_are_told_by_their_first_bytes(head: bytes, name: str):
    assert name in kind_of(head) and bool(name) == bool(kind_of(head))
