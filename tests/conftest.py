"""What must happen before any module of the project is imported, and a fixed seed for every test."""

import gc
import os
from collections.abc import Iterator

os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; read when triton is imported

import jaxtyping
import pytest
import torch

PACKAGES = ["gwm", "train", "distill", "serve", "kernels", "data", "evaluate"]

# Annotations are checked in every test; torch.compile does not survive the wrappers and runs with GWM_NO_TYPECHECK=1.
if os.environ.get("GWM_NO_TYPECHECK") != "1":
    jaxtyping.install_import_hook(PACKAGES, "beartype.beartype")

from gwm.tf32 import allow_tf32  # noqa: E402  # after the hook

torch.set_num_threads(1)  # tiny models; two threads wait for each other when the cores are busy


@pytest.fixture(autouse=True)
def seed() -> int:
    """Torch's global generator starts every test from the same place, and no test has the threads of one before it, nor
    the TF32 of training, with which a GPU is exact to three digits."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    allow_tf32(False)
    return 0


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not checked: for values that users can set, where gwm's own error must come."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_finish() -> None:
    """What is imported by now stays: garbage collections look only at what tests make."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
