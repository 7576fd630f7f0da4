import errno
from pathlib import Path

import pytest

from gwm.files.outputs import check_output, whole_file


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path: Path):
    path = tmp_path / "new" / "é, (1).svg"
    with whole_file(path) as partial:
        assert partial.suffix == ".svg" and not path.exists()
        partial.write_text("first")
    with pytest.raises(OSError), whole_file(path) as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path):
    check_output(tmp_path / "a" / "b" / "talk.mp4")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(ValueError, match="is a folder, must be the name of a file"):
        check_output(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        check_output(tmp_path / "file" / "talk.mp4")
