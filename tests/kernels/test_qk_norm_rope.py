import pytest
import torch
from torch import Tensor, nn

from kernels.attention import Ring, qk_norm_rope
from kernels.dispatch import fused_only, reference_only, using

BATCH, PATCHES, HEADS, HEAD_DIM = 2, 2, 3, 10  # nothing is a power of two
WIDTH = HEADS * HEAD_DIM
SINKS, RING = 2, 4  # latent frames
EPS = 1e-6
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of values about 1
POLICIES = pytest.mark.parametrize("policy", [reference_only, fused_only])


class Case:
    """Projections of `num_frames` latent frames, norms with weights, a rotation, and a ring full of NaN."""

    def __init__(self, num_frames: int, dtype: torch.dtype = torch.float32) -> None:
        self.num_tokens = num_frames * PATCHES
        self.q, self.k, self.v = torch.randn(3, BATCH, self.num_tokens, WIDTH).to(dtype)
        self.norms = nn.RMSNorm(WIDTH, eps=EPS, dtype=dtype), nn.RMSNorm(WIDTH, eps=EPS, dtype=dtype)
        for norm in self.norms:
            nn.init.normal_(norm.weight)
        angle = torch.rand(self.num_tokens, HEAD_DIM // 2) * 6
        self.angle = angle.double()
        self.turn = tuple(f(angle).repeat_interleave(2, dim=-1) for f in (torch.cos, torch.sin))
        storage = torch.full((2, BATCH, (SINKS + RING) * PATCHES, HEADS, HEAD_DIM), torch.nan, dtype=dtype)
        self.slots = torch.randperm((SINKS + RING) * PATCHES)[: self.num_tokens]
        self.ring = Ring(storage[0], storage[1], self.slots)

    def run(self, policy: object, ring: Ring | None) -> tuple[Tensor, Tensor, Tensor]:
        with using(policy), torch.no_grad():
            return qk_norm_rope(self.q.clone(), self.k.clone(), self.v, *self.norms, *self.turn, ring=ring)

    def expected(self, x: Tensor, norm: nn.RMSNorm) -> Tensor:
        """In float64, pairs as complex numbers."""
        x = x.double()
        x = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.weight.double()
        pairs = torch.view_as_complex(x.unflatten(-1, (HEADS, HEAD_DIM // 2, 2)).contiguous())
        turned = pairs * torch.polar(torch.ones_like(self.angle), self.angle)[:, None]
        return torch.view_as_real(turned).flatten(-2).detach()


@POLICIES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_queries_and_keys_are_normalised_over_all_heads_and_turned(policy: object, dtype: torch.dtype):
    case, tolerance = Case(num_frames=3, dtype=dtype), TOLERANCE[dtype]
    q, k, v = case.run(policy, None)
    for made, given, norm in ((q, case.q, case.norms[0]), (k, case.k, case.norms[1])):
        torch.testing.assert_close(made.double(), case.expected(given, norm), rtol=tolerance, atol=2 * tolerance)
    assert torch.equal(v, case.v.unflatten(-1, (HEADS, HEAD_DIM)))


@POLICIES
def test_new_keys_and_values_go_to_their_slots_and_nowhere_else(policy: object):
    case = Case(num_frames=3)
    _, k, v = case.run(policy, case.ring)
    assert torch.equal(case.ring.k[:, case.slots], k)
    assert torch.equal(case.ring.v[:, case.slots], v)
    others = [slot for slot in range((SINKS + RING) * PATCHES) if slot not in case.slots.tolist()]
    assert case.ring.k[:, others].isnan().all() and case.ring.v[:, others].isnan().all()


@torch.no_grad()
def test_queries_keys_and_values_may_be_parts_of_one_projection():
    case = Case(num_frames=2)
    wide = torch.randn(BATCH, case.num_tokens, 3 * WIDTH)
    made = []
    for policy in (reference_only, fused_only):
        with using(policy):
            made.append(qk_norm_rope(*wide.chunk(3, dim=-1), *case.norms, *case.turn, ring=case.ring))
    for reference, fused in zip(*made, strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-5, atol=1e-5)
    assert fused.data_ptr() == wide[..., 2 * WIDTH :].data_ptr(), "nothing was copied to make room"
