"""What setup_system.sh finds missing, on machines that are made of a few small programs."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "setup_system.sh"
COMPILER = "gcc libc6-dev python3-dev"


@pytest.mark.parametrize(
    ("programs", "has_header", "missing"),
    [
        ({"nvidia-smi"}, True, True),
        ({"nvidia-smi", "gcc"}, False, True),
        ({"nvidia-smi", "gcc"}, True, False),
        ({"nvidia-smi", "clang"}, True, False),
        (set(), False, False),  # nothing is compiled without a GPU
    ],
)
def test_triton_has_a_compiler_wherever_there_is_a_gpu(
    tmp_path: Path, programs: set[str], has_header: bool, missing: bool
):
    header = "exit 0" if has_header else 'case "$2" in *Python.h*) exit 1;; esac'
    made = dict.fromkeys(programs, "exit 0") | {"python": header, "id": "echo 1000", "ldconfig": "exit 0"}
    for name, body in made.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", str(SCRIPT), "python"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "libegl1" in done.stderr  # no program here has it
    assert (COMPILER in done.stderr) == missing
