"""The model through the kernels, as a GPU runs it, against the model through the references."""

import dataclasses

import torch

from gwm.block import MaskedClip
from gwm.rollout import Rollout
from kernels.dispatch import fused_only, reference_only, using
from tests.tiny import DIT, contract, declared, latents, speech, tiny_dit

FP32 = 1e-5
NUM_CHUNKS = 5  # round the ring, and beyond the horizon, so that sinks have turned


@torch.no_grad()
def test_a_stream_through_the_kernels_is_the_stream_through_the_references():
    """One layer, and the keys of the last step kept: Triton's interpreter takes a millisecond for a line."""
    one_layer = dataclasses.replace(DIT, num_layers=1)
    rollout = Rollout(tiny_dit(one_layer), contract(2, dit=one_layer, context="noisy"))
    reference, condition = latents(1, 1), speech(NUM_CHUNKS, 1)
    parts = [slice(at, at + 1) for at in range(NUM_CHUNKS)]
    streams = []
    for policy in (fused_only, reference_only):
        with using(policy):
            rollout.start(reference, condition, seed=1)
            streams.append(torch.cat([rollout.step(condition.frames(part)) for part in parts], dim=1))
    torch.testing.assert_close(*streams, rtol=FP32, atol=10 * FP32)


@torch.no_grad()
def test_a_model_with_text_goes_through_all_three_sites():
    model, sites = tiny_dit(declared(DIT, text=8)), []

    def watched(name: str, x: object, reference: object, fused: object) -> object:
        sites.append(name)
        return fused

    condition = speech(2, 1).with_tokens(text=torch.randn(1, 3, 8))
    x, sigma, place = latents(2, 1), torch.rand(1, 2), {"positions": torch.arange(2), "context": MaskedClip(None)}
    expected = model(x, sigma, condition, **place).velocity
    model.pack()  # as on a GPU
    with using(watched):
        made = model(x, sigma, condition, **place).velocity
    torch.testing.assert_close(made, expected, rtol=FP32, atol=10 * FP32)
    assert sites == DIT.num_layers * ["residual_norm", "qk_norm_rope", "residual_norm", "rms_norm", "residual_norm"] + [
        "residual_norm"  # before the head
    ]
