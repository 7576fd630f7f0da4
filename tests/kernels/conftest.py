"""Kernels run on the CPU, through Triton's interpreter."""

import pytest

from kernels.dispatch import HAS_TRITON


@pytest.fixture(autouse=True)
def triton() -> None:
    if not HAS_TRITON:
        pytest.skip("Triton is not installed: pip install triton==3.7.1")
