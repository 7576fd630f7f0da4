"""Whatever a file's tracks, channels and damage are: what is heard is what was said, or a sentence says why not."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition

from gwm.media.sound import SHARES, channels
from gwm.media.video import read_audio

RATE = 24_000


def tone(hertz: float, length_s: float = 1.0, *, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(length_s * rate)) / rate)


def strength(samples: np.ndarray, hertz: float) -> float:
    """Amplitude of a tone."""
    return float(2 * np.abs(np.mean(samples * np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / RATE))))


def wav(path: Path, channels: list[np.ndarray], *, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, np.stack(channels, 1), RATE, subtype=subtype)
    return path


def mka(path: Path, tracks: list[np.ndarray], *, default: int = 0) -> Path:
    """Mono tracks, one of which is the default."""
    options = {"default_mode": "passthrough"}
    with av.open(str(path), "w", format="matroska", options=options) as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in tracks]
        for stream, track in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray((track * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    data = path.read_bytes()
    head, *rest = data.split(b"\x88\x81\x00")  # FlagDefault, which PyAV cannot set
    flags = [b"\x88\x81" + bytes([number == default]) for number in range(len(rest))]
    path.write_bytes(head + b"".join(flag + part for flag, part in zip(flags, rest, strict=True)))
    return path


def surround(path: Path, track: np.ndarray, layout: str) -> Path:
    """A wav that names its channels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout=layout)
        packed = np.ascontiguousarray((track.T * 32767).astype(np.int16)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("sample_format", ["fltp", "s64", "s32p", "u8p", "dblp"])
def test_eight_planes_and_long_integers_are_read(sample_format: str):
    """PyAV 18.1 crashes the process on the first and refuses the second."""
    packed = np.tile(np.arange(8, dtype=np.float32) / 10, 50)[None]
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout="7.1")
    frame.sample_rate = RATE
    (stored,) = av.AudioResampler(format=sample_format, layout="7.1", rate=RATE).resample(frame)
    assert channels(stored)[:, 20] == pytest.approx(np.arange(8) / 10, abs=0.01)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_every_sample_format_has_the_same_level(tmp_path: Path, subtype: str):
    found = read_audio(wav(tmp_path / "a.wav", [tone(500)], subtype=subtype))
    assert strength(found[:RATE], 500) == pytest.approx(0.5, abs=0.01)


def test_opposite_channels_do_not_become_silence(tmp_path: Path, caplog):
    found = read_audio(wav(tmp_path / "a.wav", [tone(500), -tone(500)]))
    assert strength(found, 500) == pytest.approx(0.5, abs=0.01) and "cancel each other" in caplog.text


@pytest.mark.parametrize("side", [0, 1])
def test_a_voice_on_one_side_keeps_its_level(tmp_path: Path, caplog, side: int):
    sides = [np.zeros(RATE), np.zeros(RATE)]
    sides[side] = tone(500)
    found = read_audio(wav(tmp_path / "a.wav", sides))
    assert strength(found, 500) == pytest.approx(0.5, abs=0.01)
    assert f"only {['FL', 'FR'][side]} carries sound" in caplog.text


@pytest.mark.parametrize("layout", ["stereo", "5.1", "7.1", "quad"])
def test_loud_channels_are_mixed_without_clipping(tmp_path: Path, layout: str):
    """All channels at full scale, each with a tone of its own: ITU's shares, and nothing above 1."""
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    track = np.stack([tone(300 + 100 * n, level=0.95) for n in range(len(names))])
    found = read_audio(surround(tmp_path / "a.wav", track, layout))
    shares = np.array([SHARES.get(name, 0.5) for name in names])
    heard = [strength(found, 300 + 100 * n) for n in range(len(names))]
    assert heard == pytest.approx(list(0.95 * shares / shares.sum()), abs=0.01)
    assert np.abs(found).max() < 1


def test_the_centre_of_a_film_alone_keeps_its_level(tmp_path: Path):
    track = np.zeros((6, RATE))
    track[2] = tone(500)
    assert strength(read_audio(surround(tmp_path / "a.wav", track, "5.1")), 500) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("default", [0, 1])
def test_of_several_tracks_the_default_one_is_used_and_it_is_said(tmp_path: Path, caplog, default: int):
    path = mka(tmp_path / "a.mka", [tone(500), tone(900)], default=default)
    assert strength(read_audio(path), [500, 900][default]) > 0.4
    assert f"of 2 sound tracks, that of stream {default} is used" in caplog.text


def test_a_silent_default_track_gives_way_to_one_that_is_heard(tmp_path: Path):
    path = mka(tmp_path / "a.mka", [np.zeros(RATE), tone(900)])
    assert strength(read_audio(path), 900) > 0.4


def test_silence_is_said(tmp_path: Path, caplog):
    read_audio(wav(tmp_path / "a.wav", [np.zeros(RATE)]))
    assert "a.wav: the sound is silence" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 31_000.0])
def test_samples_that_are_no_sound_are_silenced_and_counted(tmp_path: Path, caplog, value: float):
    samples = tone(500)
    samples[1000:1200] = value
    found = read_audio(wav(tmp_path / "a.wav", [samples]))
    assert np.abs(found[1000:1200]).max() < 1e-3 and np.abs(found[2000:] - samples[2000:]).max() < 1e-3
    assert f"200 of {RATE} samples" in caplog.text and "silenced" in caplog.text


def test_integers_stored_as_floats_are_refused_with_their_number(tmp_path: Path):
    path = wav(tmp_path / "a.wav", [32768 * tone(500)])
    with pytest.raises(ValueError, match=r"a\.wav: \d+ of 24000 float samples exceed 16, .*Divide them by"):
        read_audio(path)


def test_a_file_of_nan_is_refused(tmp_path: Path):
    path = wav(tmp_path / "a.wav", [np.full(RATE, np.nan)])
    with pytest.raises(ValueError, match=r"a\.wav: 24000 of 24000 samples are not finite"):
        read_audio(path)


def test_floats_above_full_scale_keep_their_shape(tmp_path: Path, caplog):
    """Cut off at 1, a sine of level 2 would have a third harmonic."""
    found = read_audio(wav(tmp_path / "a.wav", [tone(500, level=2)]))
    assert strength(found, 500) == pytest.approx(1, abs=0.01) and strength(found, 1500) < 0.01
    assert "divided by the peak, 2.00" in caplog.text


@pytest.fixture
def mp3(tmp_path: Path) -> Path:
    samples = tone(500, 4) + np.random.default_rng(0).normal(0, 0.01, 4 * RATE)  # a pure tone fools the parser
    with av.open(str(tmp_path / "a.mp3"), "w") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.int16(32767 * samples)[None], format="s16p", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return tmp_path / "a.mp3"


def test_junk_in_the_middle_costs_what_it_covers_and_is_counted(mp3: Path, caplog):
    data, junk = mp3.read_bytes(), np.random.default_rng(0).bytes(3000)
    mp3.write_bytes(data[: len(data) // 2] + junk + data[len(data) // 2 :])
    found = read_audio(mp3)
    assert 3.5 * RATE < len(found) < 4.3 * RATE and strength(found[-RATE:], 500) > 0.4
    assert "packets are damaged and were skipped" in caplog.text


def test_a_file_that_is_cut_off_gives_what_is_there(mp3: Path):
    mp3.write_bytes(mp3.read_bytes()[: mp3.stat().st_size // 2])
    assert len(read_audio(mp3)) == pytest.approx(2 * RATE, rel=0.1)


def test_a_wav_header_that_promises_too_much_gives_what_is_there(tmp_path: Path):
    path = wav(tmp_path / "a.wav", [tone(500, 4)], subtype="PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 2 * RATE])
    assert len(read_audio(path)) == RATE


def test_a_file_that_is_mostly_damaged_is_refused(mp3: Path):
    """Every frame loses its body, not its header."""
    data = bytearray(mp3.read_bytes())
    first = data.find(b"\xff\xf3", 300)
    size = data.find(b"\xff\xf3", first + 50) - first
    for start in range(first, len(data) - size, size):
        data[start + 4 : start + size] = np.random.default_rng(start).bytes(size - 4)
    mp3.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.mp3"):
        read_audio(mp3)


def test_a_chained_ogg_of_two_rates_is_heard_to_its_end(tmp_path: Path):
    """As a recorded radio stream: two whole files, one behind the other."""
    parts = [(tone(500, rate=44_100), 44_100, 1), (tone(900, rate=22_050), 22_050, 2)]
    data = b""
    for samples, rate, sides in parts:
        soundfile.write(tmp_path / "part.ogg", np.stack([samples] * sides, 1), rate, subtype="VORBIS", format="OGG")
        data += (tmp_path / "part.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(data)
    found = read_audio(tmp_path / "a.ogg")
    assert len(found) == pytest.approx(2 * RATE, abs=500)
    assert strength(found[2000:22_000], 500) > 0.4 and strength(found[26_000:46_000], 900) > 0.4


def test_the_sound_of_a_film_with_a_cover_is_found(tmp_path: Path):
    """A cover is a video stream of one picture."""
    with av.open(str(tmp_path / "a.mka"), "w", format="matroska") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        frame = av.AudioFrame.from_ndarray(np.int16(32767 * tone(500))[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert strength(read_audio(tmp_path / "a.mka"), 500) > 0.4
