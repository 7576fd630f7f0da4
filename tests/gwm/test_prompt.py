"""Keys and values of a text that are kept are those that every pass would make anew."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.dit import DiT
from gwm.rollout import Rollout
from tests.tiny import DIT, contract, declared, latents, speech, tiny_dit

CHUNKS, SWITCH = 6, 3  # another text from the second on
SHAPES = {"text": {"text": 8}, "image": {"text": 8, "image": 6}}


def conditions(dit: Any) -> list[Conditions]:
    """The prompt at first, and after the switch."""
    made = []
    for _ in range(2):
        counts = {"text": 3, "image": 4}
        tokens = {spec.name: torch.randn(2, counts[spec.name], spec.width) for spec in dit.of_rate("tokens")}
        made.append(speech(1).with_tokens(**tokens))
    return made


def play(rollout: Rollout, reference: Tensor, prompts: list[Conditions]) -> Tensor:
    rollout.start(reference, prompts[0], seed=0)
    return torch.cat([rollout.step(prompts[k >= SWITCH]) for k in range(CHUNKS)], dim=1)


def counted(model: DiT) -> list[str]:
    """A name for each time that the first layer makes keys of the text."""
    calls: list[str] = []
    attention = model.blocks[0].text_attention
    attention.k.register_forward_hook(lambda *_: calls.append("k"))
    return calls


@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_a_stream_is_told_what_every_pass_would_be_told_anew(kind: str):
    dit = declared(DIT, **SHAPES[kind])
    model, reference, prompts = tiny_dit(dit), latents(1), conditions(dit)
    kept, anew = (Rollout(model, contract(dit=dit), batch_size=2) for _ in range(2))
    anew.model = lambda *inputs, prompt_cache, **named: model(*inputs, **named)
    assert torch.equal(play(kept, reference, prompts), play(anew, reference, prompts))


@torch.no_grad()
def test_keys_are_made_once_for_a_text():
    dit = declared(DIT, text=8)
    model = tiny_dit(dit)
    calls = counted(model)
    play(Rollout(model, contract(dit=dit), batch_size=2), latents(1), conditions(dit))
    assert len(calls) == 2


@torch.no_grad()
def test_another_text_takes_the_place_of_the_first():
    """A captured graph reads it where the first one was."""
    dit = declared(DIT, text=8)
    rollout, prompts = Rollout(tiny_dit(dit), contract(dit=dit), batch_size=2), conditions(dit)

    def places() -> list[int]:
        return [z.data_ptr() for layer in rollout.prompt.layers for pair in layer for z in pair]

    rollout.start(latents(1), prompts[0], seed=0)
    before = places()
    rollout.step(prompts[1])
    assert places() == before


@torch.no_grad()
def test_a_text_of_another_length_is_an_error():
    """Its keys would not fit where a captured graph reads them."""
    dit = declared(DIT, text=8)
    rollout, prompts = Rollout(tiny_dit(dit), contract(dit=dit), batch_size=2), conditions(dit)
    rollout.start(latents(1), prompts[0], seed=0)
    with pytest.raises(ValueError, match=r"keys and values of \[1\] tokens must be of \[3\]"):
        rollout.step(prompts[1].with_tokens(text=torch.randn(2, 1, 8)))


@torch.no_grad()
def test_a_stream_that_starts_again_sees_weights_that_changed_meanwhile():
    dit = declared(DIT, text=8)
    model, reference, prompts = tiny_dit(dit), latents(1), conditions(dit)
    rollout = Rollout(model, contract(dit=dit), batch_size=2)
    play(rollout, reference, prompts)
    model.blocks[0].text_attention.k.weight.mul_(2)
    fresh = Rollout(model, contract(dit=dit), batch_size=2)
    assert torch.equal(play(rollout, reference, prompts), play(fresh, reference, prompts))
