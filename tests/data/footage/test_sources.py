import os
from pathlib import Path

import pytest

from data.footage.sources import find_files, read_source


def test_linked_folders_are_looked_through_once_and_loops_end(tmp_path: Path):
    videos, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    (videos / "a.mp4").mkdir(parents=True)  # a folder that looks like a video
    elsewhere.mkdir()
    (elsewhere / "b.mp4").write_bytes(b"b")
    (videos / "a.mp4" / "c.mp4").write_bytes(b"c")
    (videos / "linked").symlink_to(elsewhere)
    (videos / "again").symlink_to(elsewhere)
    (videos / "loop").symlink_to(videos)
    (elsewhere / "up").symlink_to(videos)
    found, others = find_files(videos)
    assert [path.name for path in found] == ["c.mp4", "b.mp4"] and others == []


def test_links_to_nothing_and_pipes_cannot_be_read_and_do_not_block(tmp_path: Path):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "b.mp4")
    found, _ = find_files(tmp_path)
    assert len(found) == 2
    for path in found:
        with pytest.raises(OSError, match="must be a file"):
            read_source(path, tmp_path)


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)  # root, as whom tests may run, may look everywhere
    with pytest.raises(PermissionError, match=r"must be a folder that this user may look into.*chmod u\+rx"):
        find_files(tmp_path)
