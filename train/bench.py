"""Time training steps: `python -m train.bench geometry=nano`. See configs/bench_train.yaml.

A step is forward, backward and optimizer on random data; its share of the peak is its operations, counted, over what
the same machine does in the same time when it only multiplies matrices.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from configs.command.main import command
from gwm.files.outputs import check_output
from gwm.report.machine import processor
from gwm.weights import write_json
from train.learner import OptimizerFactory
from train.measure import PRECISIONS, autocast, matmul_flops, measure_pass, timed
from train.work import WorkBuilder

log = logging.getLogger(__name__)


def bench(
    build: WorkBuilder, optimizer: OptimizerFactory, *, precision: str, device: str, steps: int, warmup_steps: int
) -> dict[str, Any]:
    """Measured speed of one stage's step, with what it is compared with.

    Raises:
        ValueError: no step to time, or an unknown precision.
        RuntimeError: the device is not there.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1.")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device=cuda needs a GPU that torch sees, and there is none. Use device=cpu.")
    with FakeTensorMode(allow_non_fake_inputs=True):  # constants of modules, made on import
        planned = build()
        counts = [measure_pass(planned, one, precision) for one in planned.passes]
    with torch.device(device):
        work = build()
        parameters = [p for model in work.trained for p in model.parameters()]
        made = optimizer(parameters)

        def step() -> None:
            made.zero_grad()
            for one in work.passes:
                with autocast(precision):
                    loss = one.compute()
                loss.backward()
            made.step()

        for _ in range(warmup_steps):
            step()
        times = np.array([timed(step, device) for _ in range(steps)])
    peak = matmul_flops(PRECISIONS[precision], device)
    flops = sum(flops for _, flops in counts)
    seconds = float(np.median(times))
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "precision": precision,
        "parameters": sum(p.numel() for p in parameters),
        "tokens_per_step": work.tokens,
        "step_ms_p50": round(1000 * seconds, 2),
        "step_ms_p95": round(1000 * float(np.quantile(times, 0.95)), 2),
        "steps": steps,
        "tokens_per_s": round(work.tokens / seconds, 1),
        "flops_per_step": flops,
        "matmul_flops_per_s": round(peak),
        "share_of_matmul_peak": round(flops / seconds / peak, 4),
        "planned_activation_bytes": max(kept for kept, _ in counts),
    }
    if device == "cuda":
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return result


@command("bench_train", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    check_output(Path(cfg.out))
    result = bench(
        instantiate(cfg.geometry, _convert_="all"),
        instantiate(cfg.optimizer, _convert_="all"),
        precision=cfg.precision,
        device=cfg.device,
        steps=cfg.steps,
        warmup_steps=cfg.warmup_steps,
    )
    name = cfg.geometry_name
    settings = " ".join(f"{key}={cfg[key]}" for key in ("precision", "device", "steps", "warmup_steps"))
    command = f"python -m train.bench geometry={name} {settings}"
    out = Path(cfg.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {"geometry": name, "command": command, **result})
    log.info(
        "%s on %s: %.1f ms a step, %.0f tokens/s, %.1f %% of %.3g TFLOP/s; written to %s",
        name,
        result["device"],
        result["step_ms_p50"],
        result["tokens_per_s"],
        100 * result["share_of_matmul_peak"],
        result["matmul_flops_per_s"] / 1e12,
        out,
    )


if __name__ == "__main__":
    main()
