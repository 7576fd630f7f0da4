"""A film that is made piece by piece: each is encoded for itself, and a film is made of them without encoding again.

Pieces depend on their own pictures alone, so that those of a run that was killed are those of one that was not.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from jaxtyping import Float

from gwm.files.outputs import whole_file
from gwm.media.refilm import Film, SoundTrack, add_picture, check_size, time_base, turn
from gwm.media.video import container_of, reading


def write_piece(path: Path, like: Film, made: Iterator[tuple[float, av.VideoFrame]], *, codec: str) -> int:
    """Encode pictures at their moments, as `refilm` does; how many there were. The file appears when it is complete.

    Raises:
        ValueError: no picture, or pictures of several sizes.
        OSError: the file cannot be written; nothing is left of it.
    """
    count, start_s, stream = 0, 0.0, None
    with whole_file(path) as partial, av.open(str(partial), "w", format="matroska") as container:
        for moment_s, frame in made:
            if stream is None:
                stream, start_s = add_picture(container, codec, like, frame), moment_s
            check_size(like, (stream.width, stream.height), (frame.width, frame.height))
            base = stream.codec_context.time_base
            frame.pts, frame.time_base = round((moment_s - start_s) / base), base
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise ValueError(f"{like.path} ends before a piece of it begins. Record or export it again.")
        container.mux(stream.encode())
    return count


def join_pieces(
    path: str | Path,
    pieces: Sequence[Path],
    like: Film,
    moments_s: Float[np.ndarray, " n"],
    length_s: float,
    sound: Iterator[Float[np.ndarray, " b"]],
) -> None:
    """Write pieces as one film, with sound, as `refilm` does. `like` is read up to its first picture.

    moments_s: of all pictures. length_s: of the film.

    Raises:
        ValueError: pieces of several sizes, or of more or fewer pictures than there are moments.
        OSError: the film cannot be written; nothing is left of it.
    """
    next(iter(like), None)  # what turns it
    kind, base = container_of(path), time_base(like)
    ends = [round(moment / base) for moment in (*moments_s, length_s)]
    with whole_file(Path(path).absolute()) as partial:
        with av.open(str(partial), "w", format=kind.name, options=kind.options) as container:
            number, picture, track = 0, None, None
            for piece in pieces:
                for packet, source in _packets(piece):
                    if picture is None or track is None:
                        picture = _as(container, source, like)
                        track = SoundTrack(container, kind.sound, sound)
                    check_size(like, (picture.width, picture.height), (source.width, source.height))
                    if number == len(moments_s):
                        break
                    packet.stream, packet.time_base = picture, base
                    packet.pts = packet.dts = ends[number]
                    packet.duration = max(1, ends[number + 1] - ends[number])
                    container.mux(packet)
                    number += 1
                    track.play_until(moments_s[number] if number < len(moments_s) else length_s)
            if number < len(moments_s) or track is None:
                raise ValueError(f"{path}: its pieces have {number} pictures, must have {len(moments_s)}. Start anew.")
            track.end()


def _packets(piece: Path) -> Iterator[tuple[av.Packet, VideoStream]]:
    """Packets of a piece, one a picture in order of time: nothing here is predicted from a later picture."""
    with reading(piece, "a piece of a film", name=piece) as source:
        stream = source.streams.video[0]
        for packet in source.demux(stream):
            if packet.size:
                yield packet, stream


def _as(container: OutputContainer, source: VideoStream, like: Film) -> VideoStream:
    picture = container.add_stream_from_template(source)
    assert isinstance(picture, VideoStream)
    picture.time_base = time_base(like)
    if like.matrix is not None:
        turn(picture, like.matrix)
    return picture
