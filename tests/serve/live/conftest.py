import pytest

from serve.live.avatar.performer import Performer
from tests.serve.live.level_face import TIMING, LevelFace


@pytest.fixture
def face() -> LevelFace:
    return LevelFace()


@pytest.fixture
def performer(face: LevelFace) -> Performer:
    return Performer(face, TIMING)
