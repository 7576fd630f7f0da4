import numpy as np
import pytest
import torch
from torch import Tensor

from distill.dmd import Normaliser, dmd_direction, dmd_loss
from gwm.condition.inputs import Conditions
from gwm.guidance import Guidance, guided, guided_velocity
from tests.tiny import latents, speech

FP32 = 1e-5
CHUNK = 3
NORMALISERS: list[Normaliser] = ["sample", "chunk", "batch"]


def gradient(x0: Tensor, teacher: Tensor, critic: Tensor, normaliser: Normaliser, floor: float = 1e-3) -> Tensor:
    x0 = x0.clone().requires_grad_()
    direction, _ = dmd_direction(x0, teacher, critic, normaliser, chunk_frames=CHUNK, floor=floor)
    return torch.autograd.grad(dmd_loss(x0, direction), x0)[0]


def by_hand(x0: Tensor, teacher: Tensor, critic: Tensor, normaliser: Normaliser) -> np.ndarray:
    """d/dx0 of 0.5 mean (x0 - stop(x0 - g))^2 is g / N, with g = (critic - teacher) / mean |x0 - teacher|."""
    x, t, c = (z.double().numpy() for z in (x0, teacher, critic))
    made = np.zeros_like(x)
    for b in range(x.shape[0]):
        for f in range(x.shape[1]):
            first = f - f % CHUNK
            over = {
                "sample": (slice(b, b + 1), slice(None)),
                "chunk": (slice(b, b + 1), slice(first, first + CHUNK)),
                "batch": (slice(None), slice(None)),
            }[normaliser]
            made[b, f] = (c[b, f] - t[b, f]) / np.abs(x[over] - t[over]).mean() / x.size
    return made


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_the_formula(normaliser: Normaliser, dtype: torch.dtype):
    scale = torch.linspace(0.5, 3, 6)[:, None, None, None]  # frames and samples differ in their distance
    x0, teacher, critic = (z.to(dtype) for z in (latents(6), latents(6) * scale, latents(6)))
    expected = torch.from_numpy(by_hand(x0, teacher, critic, normaliser)).to(dtype)
    made = gradient(x0, teacher, critic, normaliser)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=FP32 * expected.abs().max().item())


# Two clips of two frames, all x0 = 0; teacher with a condition [1, 3] and [2, 2], without [0, 2] and [1, 2]; critic
# [1, 1] and [0, 0]. At scale 3 the teacher is [3, 5] and [4, 2]; at Self-Forcing's 3, 4 here, [4, 6] and [5, 2].
GOLDEN: dict[tuple[float, Normaliser], list[list[float]]] = {
    (3.0, "sample"): [[-2 / 4, -4 / 4], [-4 / 3, -2 / 3]],
    (3.0, "chunk"): [[-2 / 3, -4 / 5], [-4 / 4, -2 / 2]],
    (3.0, "batch"): [[-2 / 3.5, -4 / 3.5], [-4 / 3.5, -2 / 3.5]],
    (4.0, "sample"): [[-3 / 5, -5 / 5], [-5 / 3.5, -2 / 3.5]],
    (4.0, "chunk"): [[-3 / 4, -5 / 6], [-5 / 5, -2 / 2]],
    (4.0, "batch"): [[-3 / 4.25, -5 / 4.25], [-5 / 4.25, -2 / 4.25]],
}


@pytest.mark.parametrize(("scale", "normaliser"), GOLDEN)
def test_golden_values_of_the_gradient(scale: float, normaliser: Normaliser):
    conditional, unconditional, critic = (
        torch.tensor(values)[:, :, None, None, None]
        for values in ([[1.0, 3.0], [2.0, 2.0]], [[0.0, 2.0], [1.0, 2.0]], [[1.0, 1.0], [0.0, 0.0]])
    )
    x0 = torch.zeros(2, 2, 1, 1, 1, requires_grad=True)
    teacher = guided(conditional, unconditional, scale)
    direction, _ = dmd_direction(x0.detach(), teacher, critic, normaliser, chunk_frames=1, floor=1e-3)
    (made,) = torch.autograd.grad(dmd_loss(x0, direction), x0)
    expected = torch.tensor(GOLDEN[scale, normaliser]) / 4  # the loss is a mean over four latents
    torch.testing.assert_close(made.flatten(1), expected, rtol=FP32, atol=FP32)


def test_the_normalisers_differ():
    x0, teacher, critic = latents(6), latents(6), latents(6)
    made = [gradient(x0, teacher, critic, normaliser) for normaliser in NORMALISERS]
    assert all(not torch.allclose(a, b) for a, b in ((made[0], made[1]), (made[1], made[2]), (made[0], made[2])))


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_a_student_whose_critic_agrees_with_the_teacher_stays(normaliser: Normaliser):
    x0, teacher = latents(6), latents(6)
    assert not gradient(x0, teacher, teacher.clone(), normaliser).any()


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_the_floor_bounds_the_step_of_a_student_that_has_arrived(normaliser: Normaliser):
    x0, critic = latents(6), latents(6)
    expected = (critic - x0) / 0.5 / x0.numel()
    torch.testing.assert_close(gradient(x0, x0, critic, normaliser, floor=0.5), expected, rtol=1e-4, atol=1e-7)


def test_descent_moves_away_from_the_critic_towards_the_teacher():
    teacher, critic = torch.ones(1, 3, 1, 1, 1), -torch.ones(1, 3, 1, 1, 1)
    assert (gradient(torch.zeros(1, 3, 1, 1, 1), teacher, critic, "sample") < 0).all()


@pytest.mark.usefixtures("unchecked")
def test_unknown_normaliser_is_an_error():
    x = latents(3)
    with pytest.raises(ValueError, match="normaliser='frame' must be one of"):
        dmd_direction(x, x, x, "frame", chunk_frames=CHUNK, floor=1e-3)  # type: ignore[arg-type]


def test_guidance_is_in_the_standard_form():
    """1 is the conditional prediction, 0 the unconditional; Self-Forcing's g is scale - 1."""
    conditional, unconditional = latents(3), latents(3)
    torch.testing.assert_close(guided(conditional, unconditional, 1.0), conditional, rtol=FP32, atol=FP32)
    assert torch.equal(guided(conditional, unconditional, 0.0), unconditional)
    g = 2.5
    lineage = conditional + g * (conditional - unconditional)
    torch.testing.assert_close(guided(conditional, unconditional, g + 1), lineage, rtol=FP32, atol=FP32)


def test_guidance_drops_the_agents_voice_and_keeps_the_users():
    heard: list[Conditions] = []

    def predict(condition: Conditions) -> Tensor:
        heard.append(condition)
        assert condition["agent"] is not None
        return condition["agent"].mean() * torch.ones(2, 3, 4, 4, 4)

    condition = speech(3)
    assert condition["agent"] is not None
    made = guided_velocity(predict, condition, Guidance(agent=3.0))
    torch.testing.assert_close(made, 3 * condition["agent"].mean() * torch.ones_like(made), rtol=FP32, atol=FP32)
    assert heard[1]["user"] is condition["user"]
    guided_velocity(predict, condition, Guidance())
    assert len(heard) == 3  # scale 1 needs one pass
