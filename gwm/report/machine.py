"""The machine on which a number was measured."""

import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The model of this machine's processor, as Linux names it."""
    return next(iter(_models()), platform.machine())


def num_cores() -> int:
    """Logical cores, as Linux lists them; 0 where it does not."""
    return len(_models())


def _models() -> list[str]:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
