"""A new voice for an old film: the mouth of a person says what is given, and the rest of the picture stays.

python -m serve.dub video=talk.mp4 audio=other.wav out=dubbed.mp4
python -m serve.dub video=two.mp4 audio=other.wav out=dubbed.mp4 face=1           the second most visible face
python -m serve.dub video=two.mp4 audio=other.wav out=dubbed.mp4 'face=[640,360]' the face at this point

Two passes. The first finds all faces, follows them from picture to picture, and knows each person again by their
face after cuts and absences. The second draws: the calmest picture of the face in each shot speaks, with codes that the
character's model makes of the voice, and its mouth is put into every picture, with head, light and border of that
picture (`serve.dubbing.mouths` says why). Outside of the mask, pictures are equal to the bit until they are encoded.

What is finished lies in a folder beside the film: the places of faces, the codes of the voice, and pieces of the film.
A run that was killed goes on there. Pieces need no overlap: what goes on from picture to picture, places and codes, is
known of the whole film before the first is drawn.

Length, rate, depth, colours and orientation are the video's. Where the sound ends before the video, silence follows and
the mouth rests; where it is longer, the rest is left out, which is said. In profile the old mouth stays.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from configs.command.main import command
from gwm.autoencoders.motion.codec import MotionAutoencoder
from gwm.files.checks import check_file
from gwm.files.outputs import check_output
from gwm.media.face import FaceMesh
from gwm.media.pieces import join_pieces, write_piece
from gwm.media.refilm import SOUND_RATE, Film, open_film
from gwm.media.stored_picture import redrawn, writable
from gwm.media.video import container_of, sound_blocks
from gwm.metrics.identity import FaceEmbedding
from serve.artifact import MANIFEST, Artifact, load_artifact
from serve.dubbing.mouths import Speaker, shown_share
from serve.dubbing.people import Choice, Person, people_of, report
from serve.dubbing.tracks import Survey, Track, survey_film
from serve.dubbing.voice import Codes, MouthCodes, StoredCodes, store_codes
from serve.dubbing.work import digest, work_folder
from serve.workers import beside, check_workers, device_of

log = logging.getLogger(__name__)

Mask = Float[np.ndarray, "h w"]
VERSION = 1  # of what is kept between runs: what another version has finished is made again
CODES = "codes.npy"
# Of one core, of an EPYC (serve/results/dub_time_cpu.json): each film, each picture, and each million px of it.
START_CPU_S, PICTURE_CPU_S, MEGAPIXEL_CPU_S = 5.5, 0.102, 0.015
NEARLY_S = 0.1  # lengths that differ by less are not worth a word


@dataclass(frozen=True, kw_only=True)
class DubRequest:
    """The settings of configs/dub.yaml, checked before anything is loaded."""

    video: str
    audio: str
    out: str
    face: Any = None
    faces: Any = None
    artifact: str = "weights/character"
    seed: int = 0
    piece: int = 240
    workers: int = 1
    resume: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.piece, bool) or not isinstance(self.piece, int) or self.piece < 1:
            raise ValueError(f"piece={self.piece} must be a whole number of pictures, at least 1.")
        check_workers(self.workers)
        if not isinstance(self.resume, bool):
            raise ValueError(f"resume={self.resume} must be true or false.")

    @property
    def choice(self) -> Choice:
        return Choice(self.face, self.faces)

    def check(self) -> None:
        """Raises:
        ValueError: no film can be written to `out`, or a face is chosen in a way that is none.
        """
        assert self.choice
        container_of(self.out)
        if Path(self.out).exists() and Path(self.video).exists() and Path(self.out).samefile(self.video):
            raise ValueError(f"out={self.out} must not be the video itself: name another file.")
        check_output(Path(self.out))

    def facts(self) -> Mapping[str, object]:
        """All that decides the film: what was finished under others is of no use."""
        files = {"video": self.video, "audio": self.audio, "artifact": Path(self.artifact) / MANIFEST}
        settings = {name: vars(self)[name] for name in ("face", "faces", "seed", "piece")}
        return {name: digest(path) for name, path in files.items()} | settings | {"version": VERSION}


def dub(request: DubRequest) -> None:
    """Write the film, and log which faces were found and what of the sound was used. What a run that was killed has
    finished is not made again.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: model, video, sound, face or `out` cannot be used; the message names the setting.
        OSError: the film cannot be written; what is finished lies beside it, for the next run.
    """
    request.check()
    check_file(request.video, "a video file, such as mp4")
    _announce(request)
    artifact = _speaker(request)
    sound_s = sum(map(len, sound_blocks(request.audio, sample_rate=SOUND_RATE))) / SOUND_RATE
    with work_folder(Path(request.out), request.facts(), resume=request.resume) as folder:
        survey, people = chosen_faces(request, folder, keep_every=request.piece)
        _compare_lengths(request, sound_s, survey.length_s)
        _codes(request, artifact, folder, survey)
        pieces = [folder / f"{number:06d}.mkv" for number in range(-(-len(survey.moments_s) // request.piece))]
        given = request, survey, people, pieces
        with beside(_draw_part, *given, workers=min(request.workers, len(pieces))):
            _draw_all(0, artifact, *given)
        with open_film(request.video) as film:
            sound = sound_blocks(request.audio, sample_rate=SOUND_RATE)
            join_pieces(request.out, pieces, film, survey.moments_s, survey.length_s, sound)
    log.info("%s: %.2f s, %d pictures", request.out, survey.length_s, len(survey.moments_s))


def _announce(request: DubRequest) -> None:
    """Log how large the film is, and how long it takes."""
    with open_film(request.video) as film:
        length_s, fps, size = film.declared_s, float(film.fps), (film.stream.width, film.stream.height)
    if length_s is not None:
        cost_s = START_CPU_S + length_s * fps * (PICTURE_CPU_S + MEGAPIXEL_CPU_S * size[0] * size[1] / 1e6)
        log.info(
            "%s: %.1f s of %dx%d px: about %.0f s of one core, for one face; more on a busy machine",
            *(request.video, length_s, *size, cost_s),
        )


def _speaker(request: DubRequest) -> Artifact:
    artifact = load_artifact(request.artifact)
    if not isinstance(artifact.vae, MotionAutoencoder) or not artifact.contract.takes_sound:
        raise ValueError(f"artifact={request.artifact} must be a character with motion latents, which take sound.")
    return artifact


def chosen_faces(request: DubRequest, folder: Path, *, keep_every: int | None = None) -> tuple[Survey, list[Person]]:
    """The first pass, and those who will be dubbed; `folder` takes what is large. keep_every: as `survey_film`."""
    with open_film(request.video) as film:
        survey = _survey(film, folder, keep_every)
        for note in film.damage.notes:
            log.warning("%s: %s", request.video, note)
    people = people_of(survey)
    chosen = request.choice.of(people, survey, request.video)
    report(people, chosen, survey)
    return survey, [people[number] for number in chosen]


def _survey(film: Film, folder: Path, keep_every: int | None) -> Survey:
    mesh, length = FaceMesh(), film.declared_s
    total = None if length is None else max(1, math.ceil(length * film.fps))
    embed = FaceEmbedding(mesh)
    with tqdm(desc="find faces", total=total, unit="picture") as bar:
        return survey_film(film, folder, mesh=mesh, embed=embed, seen=bar.update, keep_every=keep_every)


def _codes(request: DubRequest, artifact: Artifact, folder: Path, survey: Survey) -> None:
    """Write what the new voice does to the mouth, of the whole film."""
    path, fps, until_s = folder / CODES, artifact.contract.fps, float(survey.moments_s[-1])
    if not path.is_file():
        voice = sound_blocks(request.audio, sample_rate=artifact.contract.audio.sample_rate)
        with tqdm(desc="voice", total=int(until_s * fps) + 2, unit="frame") as bar:
            store_codes(path, MouthCodes(artifact, voice, seed=request.seed), until_s, seen=bar.update)


def _draw_part(rank: int, request: DubRequest, survey: Survey, people: list[Person], pieces: list[Path]) -> None:
    _draw_all(rank, load_artifact(request.artifact, device=device_of(rank)), request, survey, people, pieces)


def _draw_all(
    rank: int, artifact: Artifact, request: DubRequest, survey: Survey, people: list[Person], pieces: list[Path]
) -> None:
    """Make the pieces that are missing and this worker's, in one pass through the film; pictures of the others are only
    decoded."""
    codec, place = container_of(request.out).picture, 0
    codes = StoredCodes(pieces[0].with_name(CODES), artifact.contract.fps)
    bar = tqdm(desc="dub", total=len(survey.moments_s), unit="picture", disable=rank > 0)
    with open_film(request.video) as film, bar:
        pictures = _counted(film, bar)
        for number, path in enumerate(pieces):
            if path.is_file() or number % request.workers != rank:
                continue
            first = number * request.piece
            deque(islice(pictures, first - place), maxlen=0)
            part = islice(pictures, request.piece)
            made = dubbed(film, part, people, artifact, request, codes=codes, first=first)
            write_piece(path, film, ((moment_s, frame) for moment_s, frame, _ in made), codec=codec)
            place = first + request.piece


def _counted(film: Film, bar: tqdm) -> Iterator[tuple[float, av.VideoFrame]]:
    for picture in film:
        bar.update()
        yield picture


def _compare_lengths(request: DubRequest, sound_s: float, video_s: float) -> None:
    if sound_s < video_s - NEARLY_S:
        log.warning(
            "%s ends at %.2f s, %s at %.2f s: silence follows, and the mouth rests",
            *(request.audio, sound_s, request.video, video_s),
        )
    elif sound_s > video_s + NEARLY_S:
        log.warning(
            "%s of %.2f s is cut where %s ends, at %.2f s: what is said later is left out",
            *(request.audio, sound_s, request.video, video_s),
        )


def dubbed(
    film: Film,
    pictures: Iterator[tuple[float, av.VideoFrame]],
    people: list[Person],
    artifact: Artifact,
    request: DubRequest,
    *,
    codes: Codes | None = None,
    first: int = 0,
) -> Iterator[tuple[float, av.VideoFrame, Mask | None]]:
    """Pictures of a film as they are stored, with the new mouths, and what of each is drawn anew: upright, 0 elsewhere;
    None: nothing is.

    codes: of the new voice; None: they are made now. first: the number of the first picture.
    """
    assert isinstance(artifact.vae, MotionAutoencoder)
    if codes is None:
        voice = sound_blocks(request.audio, sample_rate=artifact.contract.audio.sample_rate)
        codes = MouthCodes(artifact, voice, seed=request.seed)
    codec, scene, to_rgb = container_of(request.out).picture, Scene(people, artifact.vae, first), film.rgb_reader()
    for number, (moment_s, stored) in enumerate(pictures, first):
        frame, mask = writable(stored, codec), None
        if scene.shows(number):
            before = np.ascontiguousarray(to_rgb(stored))
            after, mask = scene.draw(number, before, codes.at(moment_s))
            frame = redrawn(frame, before, after, film.turn)
        yield moment_s, frame, mask


class Scene:
    """Those whose mouths are drawn, and their faces that are in view: pictures are asked for in order."""

    def __init__(self, people: list[Person], codec: MotionAutoencoder, first: int) -> None:
        self.codec = codec
        tracks = ((track, person) for person in people for track in person.tracks if track.stop > first)
        self.coming = sorted(tracks, key=lambda pair: -pair[0].pictures[0])
        self.now: list[tuple[Track, Speaker]] = []

    def shows(self, number: int) -> bool:
        """Whether one of the faces is in this picture, which is the next."""
        self.now = [(track, speaker) for track, speaker in self.now if track.stop > number]
        while self.coming and self.coming[-1][0].pictures[0] <= number:
            track, person = self.coming.pop()
            self.now.append((track, Speaker(self.codec, person.calm_track(track).calm())))
        return any(track.place(number) is not None for track, _ in self.now)

    @torch.no_grad()
    def draw(
        self, number: int, picture: UInt8[np.ndarray, "h w 3"], code: torch.Tensor
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Mask]:
        """The picture with all mouths, and where they are."""
        whole = np.zeros(picture.shape[:2], np.float32)
        for track, speaker in self.now:
            if (place := track.place(number)) is not None:
                points, share = track.points(place), shown_share(track.yaws[place])
                picture, region, mask = speaker.put_into(picture, points, code, share)
                whole[region.slices] = np.maximum(whole[region.slices], mask)
        return picture, whole


@command("dub", verbatim=("video", "audio", "out", "artifact"))
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    dub(DubRequest(**values))


if __name__ == "__main__":
    main()
