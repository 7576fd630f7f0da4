from pathlib import Path

import pytest

from serve.bench.live import engine_pids


def test_a_thread_that_ends_while_it_is_looked_at_has_no_engines(monkeypatch: pytest.MonkeyPatch):
    """Ten minutes of measuring once ended with it."""
    monkeypatch.setattr(Path, "glob", lambda *_: [Path("/proc/self/task/0/children")])
    assert engine_pids(1) == []
