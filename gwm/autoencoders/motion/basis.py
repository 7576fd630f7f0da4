"""Flow as a linear function of a code: what an average face does, by ridge regression in closed form.

Faces are framed alike, so the flow of a code is nearly the same field for everyone; networks add what is not. Products
of the codes that act together are features beside the codes themselves: a turned head foreshortens what the jaw does.
"""

from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gwm.autoencoders.motion.code import WIDTH, place

GRID = 64  # cells a side of a flow field
TOGETHER = ("jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthSmileLeft", "mouthSmileRight", "eyeBlinkLeft",
            "eyeBlinkRight", "yaw", "pitch", "roll")  # fmt: skip
PRODUCTS = [(place(a), place(b)) for a, b in combinations_with_replacement(TOGETHER, 2)]
FEATURES = WIDTH + len(PRODUCTS)
RANK = 48  # fields that are kept: 0.8 MB in half precision
RIDGE = 20.0


def features(code: Float[Tensor, "n 57"]) -> Float[Tensor, "n k"]:
    """The code and products of its members, each zero where the code is; products are bounded: no fit is sure there."""
    first, second = zip(*PRODUCTS, strict=True)
    return torch.cat([code, (code[:, list(first)] * code[:, list(second)]).clamp(-9, 9)], dim=1)


class FlowBasis(nn.Module):
    """The flow, in cells, of each feature, as sums of `RANK` fields; fitted before training and then kept."""

    shares: Tensor
    fields: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shares", torch.zeros(FEATURES, RANK))
        self.register_buffer("fields", torch.zeros(RANK, 2, GRID, GRID))

    @torch.no_grad()
    def set(self, flows: Float[Tensor, "k 2 64 64"]) -> None:
        """Keep what `RANK` fields can say of one flow for each feature: the best there is in squares."""
        left, size, right = torch.linalg.svd(flows.flatten(1), full_matrices=False)
        self.shares.copy_(left[:, :RANK] * size[:RANK])
        self.fields.copy_(right[:RANK].view_as(self.fields))

    def forward(self, code: Float[Tensor, "n 57"], gain: Float[Tensor, "n k"]) -> Float[Tensor, "n 2 64 64"]:
        """Flow of a code for a person whose features count `gain` times the average's."""
        return ((features(code) * gain) @ self.shares @ self.fields.flatten(1)).view(-1, 2, GRID, GRID)


class RidgeFit:
    """Sums from which the fields follow; `add` as many pictures as there are, then `solve`."""

    def __init__(self) -> None:
        self.gram = torch.zeros(FEATURES, FEATURES, dtype=torch.float64)
        self.cross = torch.zeros(FEATURES, 2 * GRID * GRID, dtype=torch.float64)

    def add(self, code: Float[Tensor, "n 57"], flow: Float[Tensor, "n 2 64 64"]) -> None:
        x = features(code).double()
        self.gram += x.T @ x
        self.cross += x.T @ flow.flatten(1).double()

    def solve(self) -> Float[Tensor, "k 2 64 64"]:
        """Least squares with a penalty of RIDGE on each field; no constant term, so that rest has no flow."""
        penalty = RIDGE * torch.eye(FEATURES, dtype=torch.float64)
        return torch.linalg.solve(self.gram + penalty, self.cross).float().view(FEATURES, 2, GRID, GRID)
