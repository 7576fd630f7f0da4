from pathlib import Path

import pytest
from PIL import Image

from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.live.characters import manner_of, read_character, read_characters, read_places
from tests.tiny import contract, declared

SMALL = Framing(Resolution(16, 16))
SHIPPED = Path(__file__).parents[3] / "serve/live/characters"


def written(folder: Path, text: str, name: str = "ann.yaml") -> Path:
    Image.new("RGB", (60, 40), (9, 9, 9)).save(folder / "ann.png")
    (folder / name).write_text(text)
    return folder / name


def test_shipped_characters_can_be_talked_to():
    characters = read_characters(SHIPPED, Framing(Resolution(32, 32)))
    assert set(characters) == {"noa", "pip", "sam"}
    for character in characters.values():
        assert character.start_script and "spoken" in character.personality
        assert character.portrait.shape == (32, 32, 3) and character.portrait.std() > 10


def test_definition_is_read_and_its_picture_found_beside_it(tmp_path: Path):
    ann = read_character(written(tmp_path, "{name: Ann, image: ann.png, personality: Be brief., voice: de}"), SMALL)
    assert (ann.key, ann.name, ann.voice, ann.start_script) == ("ann", "Ann", "de", None)
    assert (ann.portrait == 9).all()


@pytest.mark.parametrize(
    ("text", "name", "rule"),
    [
        ("{name: Ann, image: ann.png}", "ann.yaml", r"missing fields \['personality'\]"),
        ("{name: A, image: ann.png, personality: b, mood: c}", "ann.yaml", r"foreign fields \['mood'\]"),
        (
            "{name: A, image: ann.png, personality: b, manner: {joy: a}}",
            "ann.yaml",
            "manner=.* must be numbers by name",
        ),
        ("{name: A, image: bob.png, personality: b}", "ann.yaml", "bob.png does not exist"),
        ("{name: A, image: ann.png, personality: b}", "Ann B.yaml", "part of a URL"),
    ],
)
def test_wrong_definitions_name_what_is_wrong(tmp_path: Path, text: str, name: str, rule: str):
    with pytest.raises(ValueError, match=rule):
        read_character(written(tmp_path, text, name), SMALL)


def test_a_folder_without_characters_is_an_error(tmp_path: Path):
    for read, kind in ((read_characters, r"\.yaml"), (read_places, r"\.png")):
        with pytest.raises(ValueError, match=f"must hold at least one {kind}"):
            read(tmp_path, SMALL)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_definitions_from_other_editors_are_read(tmp_path: Path, encoding: str):
    path = written(tmp_path, "")
    path.write_bytes("name: \u00c9va\r\nimage: ann.png\r\npersonality: Be brief.\r\n".encode(encoding))
    assert read_character(path, SMALL).name == "\u00c9va"


def test_a_definition_in_another_encoding_is_said(tmp_path: Path):
    path = written(tmp_path, "")
    path.write_bytes("name: \u00c9va".encode("cp1252"))
    with pytest.raises(ValueError, match=r"ann\.yaml must be UTF-8 text.*cp1252"):
        read_character(path, SMALL)


def test_a_character_without_a_face_is_said(tmp_path: Path, caplog):
    read_character(written(tmp_path, "{name: Ann, image: ann.png, personality: Be brief.}"), SMALL)
    assert "no face is found in image ann.png" in caplog.text


def test_a_manner_is_given_as_far_as_the_model_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rules = contract()
    rules = rules.replace(dit=declared(rules.dit, action=4, names=("joy",)))
    text = "{name: A, image: ann.png, personality: b, manner: {joy: %s, anger: 1}}"
    assert manner_of(read_character(written(tmp_path, text % 0.3), SMALL), rules) == {"joy": 0.3}
    assert "ann: the model has no anger" in caplog.text
    with pytest.raises(ValueError, match=r"character ann: joy=11.0 must be a number in \[-10, 10\]"):
        manner_of(read_character(written(tmp_path, text % 11), SMALL), rules)
