"""What clients send for films that are made of others; names and limits are this server's own."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from serve.dubbing.people import Choice
from serve.editing.request import EditRequest
from serve.runway_api.films import OUT
from serve.runway_api.requests import ImageSource, Shape, SpeechAudio, SpeechText, VideoSource, check_media

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1, max_length=2_000)]
Rectangle = Annotated[list[int], Field(min_length=4, max_length=4)]


class VideoDubRequest(Shape):
    """A new voice for a film, as `python -m serve.dub` gives it."""

    video: VideoSource
    speech: Annotated[SpeechText | SpeechAudio, Field(discriminator="type")]
    face: Annotated[int, Field(ge=0)] | Annotated[list[float], Field(min_length=2, max_length=3)] | None = None
    faces: Literal["all"] | Annotated[list[int], Field(min_length=1, max_length=20)] | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _can_be(self) -> "VideoDubRequest":
        Choice(self.face, self.faces)
        return self


class VideoEditRequest(Shape):
    """An edit of a film, by the settings of `python -m serve.edit`."""

    video: VideoSource
    mask: Literal["mouth"] | Annotated[str, check_media("image", "video")] | None = None
    box: Rectangle | None = None
    between: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    canvas: str | None = Field(default=None, pattern=r"^[0-9]{2,4}x[0-9]{2,4}$")
    prompt: Text | None = None
    source: Text | None = None
    negative_prompt: Text | None = None
    image: ImageSource | None = None
    view: Rectangle | None = None
    overlap: int = Field(default=8, ge=0, le=1000)
    rounds: int = Field(default=1, ge=1, le=10)
    strength: float = Field(default=0.66, gt=0, le=1)
    draws: int = Field(default=1, ge=1, le=10)
    source_guidance: float | None = Field(default=None, gt=0, le=100)
    steps: int | None = Field(default=None, ge=1, le=200)
    guidance: float | None = Field(default=None, gt=0, le=100)
    seed: Seed = 0

    @model_validator(mode="after")
    def _can_be(self) -> "VideoEditRequest":
        EditRequest(out=OUT, artifact="", **self.model_dump())
        return self
