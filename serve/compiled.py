"""torch.compile with a check in the log that compiled code ran: torch falls back to eager code without a word."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kernels.attention import prefix_backend

log = logging.getLogger(__name__)


class Compiled:
    """A network that is compiled at its first call, and says in the log whether compiled code ran then.

    Its shapes are taken as fixed: a stream has one for the reference image and one for its chunks.
    """

    def __init__(self, network: nn.Module, *, backend: str = "inductor") -> None:
        self.backend, self.num_graphs, self.num_runs = backend, 0, 0
        # Else a graph would end there. Here, since it loads PyTorch's compiler: 150 MB that no other engine needs.
        torch.compiler.assume_constant_result(prefix_backend.__wrapped__)
        self.network = torch.compile(network, dynamic=False, backend=self._watched)
        self._logged = False

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self.network(*arguments, **options)
        if not self._logged:
            self._logged = True
            self._log_outcome()
        return result

    def _watched(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable:
        run = torch._dynamo.lookup_backend(self.backend)(graph, inputs)
        self.num_graphs += 1

        def counted(*arguments: Any) -> Any:
            self.num_runs += 1
            return run(*arguments)

        return counted

    def _log_outcome(self) -> None:
        if self.num_runs:
            log.info("compiled by %s: %d graphs, run %d times", self.backend, self.num_graphs, self.num_runs)
        else:
            log.warning("compile=true, but nothing was compiled by %s: the network runs eagerly.", self.backend)
