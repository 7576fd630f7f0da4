"""Every kernel compiles for the cards it is written for, in the sizes of the models; no card is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CARDS = (80, 90, 100)
KERNELS = {"qk_norm_rope", "rms_norm", "sink_rope", "residual_norm", "step_update", "causal_input"}


@pytest.mark.acceptance
def test_every_kernel_compiles_for_ampere_hopper_and_blackwell(tmp_path: Path):
    """In a process of its own: this one's kernels are interpreted. Nothing may spill, and rows are read in vectors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(ROOT / "tests" / "kernels" / "ahead_of_time.py"), *map(str, CARDS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["sm"] for row in rows} == set(CARDS) and len(rows) == len(CARDS) * 2 * (5 * 8 + 2 + 12)
    assert (
        {row["kernel"].split()[0] for row in rows}
        == KERNELS
        == {path.stem for path in (ROOT / "kernels").glob("*.py")}
        - {"__init__", "dispatch", "frame_mask", "attention", "linear"}
        | {"qk_norm_rope"}
    )
    assert [row for row in rows if row["spilled"] or row["stack"] or not row["cubin"]] == []
    scalar = {row["kernel"].split()[0] for row in rows if row["load_bytes"] < 8}
    assert scalar <= {"qk_norm_rope", "sink_rope"}  # their rows are loaded in pairs
