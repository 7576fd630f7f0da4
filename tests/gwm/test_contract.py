import dataclasses
import json

import pytest

from gwm.chunks import ChunkPattern
from gwm.contract import Contract
from gwm.resolution import Resolution
from tests.tiny import contract, declared

THREE = ChunkPattern(chunk_frames=3, window_chunks=2, sink_chunks=1, first_frames=1)
NO_SINK = ChunkPattern(chunk_frames=1, window_chunks=2, sink_chunks=0, first_frames=1)


def test_json_round_trip():
    rules = contract(6, pattern=THREE, solver="ode", context="noisy")
    assert Contract.from_json(json.loads(json.dumps(rules.to_json()))) == rules


def test_unknown_and_missing_keys_are_named():
    values = contract().to_json()
    values["sigmaz"] = values.pop("sigmas")
    with pytest.raises(ValueError, match=r"Contract: unknown keys \['sigmaz'\], missing keys \['sigmas'\]"):
        Contract.from_json(values)


def test_unknown_key_of_a_part_is_named():
    values = contract().to_json()
    values["pattern"]["window"] = 3
    with pytest.raises(ValueError, match=r"ChunkPattern: unknown keys \['window'\]"):
        Contract.from_json(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": (0.9, 0.5)}, r"sigmas=\(0.9, 0.5\) must start at 1.0"),
        ({"solver": "heun"}, r"solver='heun' must be one of \('ode', 'renoise', 'unipc'\)"),
        ({"context": "dirty"}, r"context='dirty' must be one of \('clean', 'noisy'\)"),
        ({"fps": 25}, "fps=25 [*] frame_samples=1000 must be sample_rate=24000"),
        ({"resolution": Resolution(40, 48)}, "resolution=40x48 must .* multiples of VAE stride [*] patch = 16"),
        ({"sink_ahead_frames": -1}, "sink_ahead_frames=-1 must be >= 0"),
        ({"sink_ahead_frames": 1, "pattern": NO_SINK}, "sink_ahead_frames=1 must be .* no sink: sink_chunks=0"),
        ({"pattern": THREE, "horizon_frames": 5}, "num_frames=6 must be first_frames=1 plus a multiple"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_contract_is_an_error(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        contract(**change)


def test_named_numbers_fill_a_conditions_width():
    rules = contract()
    acting = rules.replace(dit=declared(rules.dit, action=8, names=("eyeBlinkLeft", "eyeBlinkRight")))
    assert Contract.from_json(json.loads(json.dumps(acting.to_json()))) == acting
    assert acting.dit.names("action") == ("eyeBlinkLeft", "eyeBlinkRight") and rules.dit.names("action") == ()
    with pytest.raises(ValueError, match=r"condition action: width=8 must be 4, one of each of names=\['jawOpen'\]"):
        rules.replace(dit=declared(rules.dit, action=8, names=("jawOpen",)))


def test_a_name_that_callers_set_has_one_meaning():
    rules = contract()
    dit = declared(rules.dit, action=4, names=("joy",))
    twice = dataclasses.replace(dit.conditions[-1], name="mood")
    with pytest.raises(ValueError, match=r"names=\['joy'\] must be of one condition each"):
        rules.replace(dit=dataclasses.replace(dit, conditions=(*dit.conditions, twice)))
    with pytest.raises(ValueError, match=r"condition mood: maximum=\[1.0, 2.0\] must have 1 entries"):
        dataclasses.replace(twice, maximum=(1.0, 2.0))


def test_speech_of_another_length_is_an_error():
    rules = contract()
    wide = type(rules.audio)(num_mels=rules.audio.num_mels + 1, hops_per_frame=1)
    with pytest.raises(ValueError, match="speech conditions of width=36, speech_mels=3 must be the audio window's 48"):
        rules.replace(audio=wide)


def test_a_grid_of_places_of_another_resolution_is_an_error():
    rules = contract()
    with pytest.raises(
        ValueError, match=r"place_grid=\[3, 2\] must be .* patches, \[2, 3\] of resolution=32x48, or \[\]"
    ):
        rules.replace(dit=dataclasses.replace(rules.dit, place_grid=(3, 2)))
    assert rules.replace(dit=dataclasses.replace(rules.dit, place_grid=(2, 3))).dit.place_grid == (2, 3)


def test_rows_and_columns_are_those_of_the_resolution():
    assert contract().latent_grid == (4, 6) and contract().num_patches == 6


def test_a_chunk_plays_as_long_as_its_pixel_frames():
    rules = contract(6, pattern=THREE)
    assert rules.chunk_pixel_frames == 12
    assert rules.chunk_ms == pytest.approx(500)
