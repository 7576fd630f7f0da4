"""With the backend that only captures: the one that generates code takes minutes and is PyTorch's to test."""

import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

from serve.compiled import Compiled


class Uncompilable(nn.Linear):
    @torch.compiler.disable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def messages(network: nn.Module, caplog: pytest.LogCaptureFixture) -> tuple[Compiled, list[str]]:
    compiled, x = Compiled(network, backend="eager"), torch.randn(2, 3)
    with caplog.at_level(logging.INFO, logger="serve.compiled"):
        for _ in range(3):
            assert torch.equal(compiled(x), network(x))
    return compiled, [record.message for record in caplog.records if record.name == "serve.compiled"]


def test_the_log_proves_once_that_compiled_code_ran(caplog: pytest.LogCaptureFixture):
    compiled, said = messages(nn.Linear(3, 3), caplog)
    assert said == ["compiled by eager: 1 graphs, run 1 times"]
    assert compiled.num_runs == 3 and compiled.num_graphs == 1


def test_a_network_that_is_not_compiled_is_a_warning(caplog: pytest.LogCaptureFixture):
    compiled, said = messages(Uncompilable(3, 3), caplog)
    assert said == ["compile=true, but nothing was compiled by eager: the network runs eagerly."]
    assert compiled.num_runs == 0


# By itself, as the hook that checks annotations in tests would end a graph at every function.
PASSES = """
from gwm.rollout import Rollout
from serve.compiled import Compiled
from tests.tiny import contract, latents, speech, tiny_dit

rollout = Rollout(tiny_dit(), contract(), batch_size=2)
rollout.model = Compiled(rollout.model, backend="eager")
rollout.start(latents(1), speech(1), seed=0)
rollout.step(speech(1))
print(rollout.model.num_graphs, rollout.model.num_runs)
"""


def test_a_whole_pass_is_one_graph():
    """What is fused cannot reach over the end of a graph: one pass for the reference, two steps and the commit."""
    done = subprocess.run([sys.executable, "-c", PASSES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "4"], done.stderr


def test_an_engine_that_does_not_compile_does_not_load_the_compiler():
    """150 MB in every process, and seconds before the first frame."""
    loads = "import sys, serve.artifact, serve.engine; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
