from gwm.condition.spec import Control
from serve.live.avatar.changes import SessionControls
from tests.serve.conftest import tiny_contract
from tests.serve.world import ACTIONS, world_contract


def test_controls_are_those_of_the_models_conditions():
    chunk_s = 4 / 24  # a latent frame has four pixel frames
    world, character = (
        SessionControls.of(made(chunk_frames=1), rewind_chunks=8) for made in (world_contract, tiny_contract)
    )
    assert world == SessionControls(
        prompt=True, actions=tuple(map(Control, ACTIONS)), code=(), rewind_chunks=8, chunk_s=chunk_s, sound=False
    )
    assert character == SessionControls(prompt=False, actions=(), code=(), rewind_chunks=8, chunk_s=chunk_s)
