"""Compile every kernel for cards that are not there, by its own launcher; arguments: 80 90 100.

Prints a JSON line for each kernel, card, dtype and size: registers and spills as ptxas counts them, and the bytes of
the widest load. Launchers run as they are; only the launch itself becomes a compilation (`warmup`).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction
from triton.runtime.driver import driver

torch.cuda.is_available = lambda: True  # kernels.dispatch asks, once
from kernels.attention import Ring, qk_norm_rope_triton  # noqa: E402
from kernels.causal_input import causal_input_triton  # noqa: E402
from kernels.residual_norm import residual_norm_triton  # noqa: E402
from kernels.rms_norm import rms_norm_triton  # noqa: E402
from kernels.sink_rope import turn_sinks_triton  # noqa: E402
from kernels.step_update import step_update_triton  # noqa: E402

# Width and head of the models: Wan 14B, 5B and 1.3B, the recipes for one GPU, and the character.
WIDTHS = ((5120, 128), (3072, 128), (1536, 128), (768, 64), (192, 32))
CHANNELS = (96, 192, 384, 256, 512, 1024)  # of Wan's decoders, 2.1 and 2.2
DTYPES = (torch.bfloat16, torch.float32)
TOKENS, PATCHES = 6, 3


class Card:
    """What Triton asks a driver for, of a card of which there is nothing but the architecture."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # kernels are kept apart by it

    def get_current_stream(self, device: int) -> int:
        return 0


def launches(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every way in which a launcher calls its kernel."""
    for width, head in WIDTHS:
        q, k, v = (torch.zeros(1, TOKENS, width, dtype=dtype) for _ in range(3))
        norms = [nn.RMSNorm(width, eps=1e-6, dtype=dtype) for _ in range(2)]
        turn = torch.ones(TOKENS, head), torch.zeros(TOKENS, head)
        heads = torch.zeros(1, 2 * TOKENS, width // head, head, dtype=dtype)
        ring = Ring(heads, heads.clone(), torch.arange(TOKENS))
        for name, into in (("ring", ring), ("alone", None)):
            call = lambda into=into, q=q, k=k, v=v, norms=norms, turn=turn: qk_norm_rope_triton(  # noqa: E731
                q, k, v, *norms, *turn, into
            )
            yield f"qk_norm_rope {name} {width}", call
        yield f"rms_norm {width}", lambda q=q, norm=norms[0]: rms_norm_triton(q, norm)
        keys, sinks = (torch.zeros(2, 1, count, width // head, head, dtype=dtype) for count in (9, 4))
        row = torch.ones(1, head), torch.zeros(1, head)
        yield (
            f"sink_rope {width}",
            lambda k=keys, s=sinks, r=row: turn_sinks_triton(k, s, *r, torch.tensor(4)),
        )
        stream = torch.zeros(1, 2, PATCHES, width, dtype=dtype)
        parts = torch.zeros(1, 2, 3, width, dtype=dtype)[:, :, :, None].unbind(2)
        norm = nn.LayerNorm(width, eps=1e-6, dtype=dtype)
        for name, y, gate, scale in (
            ("gate", stream.clone(), parts[0], parts[1]),
            ("added", stream.clone(), None, parts[1]),
            ("first", None, None, parts[1]),
            ("plain", stream.clone(), parts[0], None),
        ):
            shift = None if scale is None else parts[2]
            call = lambda y=y, g=gate, a=scale, b=shift, x=stream, n=norm: residual_norm_triton(  # noqa: E731
                x, y, g, n, a, b
            )
            yield f"residual_norm {name} {width}", call
    x = torch.zeros(1, 3, 16, 8, 8, dtype=dtype)
    for name, noise in (("noise", x), ("last", None)):
        yield f"step_update {name}", lambda noise=noise: step_update_triton(x, x, noise, 0.5, 0.25)
    for channels in CHANNELS:
        for frames in (1, 4):
            moved = torch.zeros(1, frames, 4, 4, channels, dtype=dtype)
            buffer = torch.zeros(1, frames + 2, 4, 4, channels, dtype=dtype)
            weight = torch.ones(channels, dtype=dtype)
            call = lambda x=moved, w=weight, b=buffer: causal_input_triton(x, w, b, 1e-6)  # noqa: E731
            yield f"causal_input {frames} {channels}", call


def numbers(compiled: Any, capability: int) -> dict[str, int]:
    """Of the program as the card would get it: registers, bytes spilled, bytes of the widest load."""
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if capability >= 100 and ptxas.with_name("ptxas-blackwell").exists():
        ptxas = ptxas.with_name("ptxas-blackwell")
    ptx = compiled.asm["ptx"]
    target = re.findall(r"^\.target (sm_\w+)", ptx, re.MULTILINE)[0]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [str(ptxas), "-v", f"--gpu-name={target}", str(source), "-o", f"{folder}/kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    widths = [
        int(number or 1) * int(bits) // 8
        for number, bits in re.findall(r"ld\.global(?:\.\w+)*?(?:\.v(\d))?\.b(\d+)", ptx)
    ]
    return {
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        "stack": sum(map(int, re.findall(r"(\d+) bytes stack frame", said))),
        "load_bytes": max(widths, default=0),
        "cubin": len(compiled.asm["cubin"]),
    }


def main() -> None:
    made: list[Any] = []

    def compiled_only(function: Any, grid: Any) -> Callable[..., None]:
        return lambda *given, **more: made.append(function.run(*given, grid=grid, warmup=True, **more))

    JITFunction.__getitem__ = compiled_only
    for capability in map(int, sys.argv[1:]):
        driver.set_active(Card(capability))
        for dtype in DTYPES:
            for name, launch in launches(dtype):
                made.clear()
                with torch.no_grad():
                    launch()
                (kernel,) = made
                row = {"kernel": name, "sm": capability, "dtype": str(dtype).removeprefix("torch.")}
                sys.stdout.write(json.dumps(row | numbers(kernel, capability)) + "\n")


if __name__ == "__main__":
    main()
