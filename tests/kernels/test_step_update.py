import pytest
import torch

from kernels.dispatch import fused_only, reference_only, using
from kernels.step_update import step_update

SHAPE = (2, 3, 5, 7, 11)  # 2310 values: two whole blocks of the kernel and a part
FP32, HALF_ULP = 1e-5, 1.001 * 2**-8  # of bfloat16


@pytest.mark.parametrize("policy", [reference_only, fused_only])
@pytest.mark.parametrize("sigmas", [(1.0, 0.6), (0.6, 0.25)])
@pytest.mark.parametrize("last", [True, False])
def test_update_is_the_formula_in_float64(policy: object, sigmas: tuple[float, float], last: bool):
    x, velocity, noise = torch.randn(3, *SHAPE)
    sigma, sigma_next = sigmas
    with using(policy):
        made = step_update(x, velocity, None if last else noise, sigma=sigma, sigma_next=sigma_next)
    expected = x.double() - sigma * velocity.double()
    if not last:
        expected = (1 - sigma_next) * expected + sigma_next * noise.double()
    torch.testing.assert_close(made.double(), expected, rtol=FP32, atol=FP32)


def test_bfloat16_is_rounded_once_at_the_end():
    """Neither the levels, of which bfloat16 has few, nor what is between; Triton's interpreter cuts off instead."""
    x, velocity, noise = torch.randn(3, *SHAPE).bfloat16()
    made = step_update(x, velocity, noise, sigma=0.938, sigma_next=0.833)
    expected = (1 - 0.833) * (x.double() - 0.938 * velocity.double()) + 0.833 * noise.double()
    torch.testing.assert_close(made.double(), expected, rtol=HALF_ULP, atol=FP32)


def test_latents_that_are_a_view_keep_their_places():
    x, velocity = torch.randn(2, 5, 3, 7, 11).transpose(1, 2), torch.randn(2, 3, 5, 7, 11)
    with using(fused_only):
        made = step_update(x, velocity, None, sigma=0.5, sigma_next=0.0)
    torch.testing.assert_close(made, x - 0.5 * velocity, rtol=FP32, atol=FP32)
