"""configs/serve.yaml, read and checked before anything is loaded."""

import re
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

from serve.scheduler import POLICIES

RECOGNISERS = ("moonshine", "whisper", "openai")
LANGUAGE_MODELS = ("rules", "local", "openai")
OVERLAP = ("auto", "on", "off")
PRODUCTS = ("auto", "pytorch")
PRECISIONS = ("auto", "float32", "bfloat16")
WAYS = ("ulysses", "tensor")  # as in serve/parallel
VISION = ("auto", "on_request", "off")
VOICES = ("piper", "kokoro", "espeak", "openai")
DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class McpOptions:
    """A server of the Model Context Protocol, whose tools every conversation may call.

    Raises:
        ValueError: the address is no http URL, or the time is too short.
    """

    url: str
    key_variable: str | None = None  # of the environment, with the bearer token; None: it asks for none
    tools: list[str] | None = None  # by the server's own names; None: all
    timeout_s: float = 8.0  # of a call

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url={self.url!r} of an MCP server must begin with http:// or https://.")
        at_least("timeout_s of an MCP server", self.timeout_s, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How sessions share an engine process.

    Raises:
        ValueError: a policy that does not exist, or a load that cannot be.
    """

    policy: str  # whose chunk is made next
    max_load: float  # of an engine process's time that may be promised to sessions

    def __post_init__(self) -> None:
        one_of("sessions.policy", self.policy, tuple(POLICIES))
        if not 0 < self.max_load <= 1:
            raise ValueError(f"sessions.max_load={self.max_load} must be above 0 and at most 1: a share of time.")


Entry = str | list[str] | dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDevices:
    """Where an engine process computes.

    Raises:
        ValueError: a device or a way to divide that does not exist.
    """

    denoise: tuple[str | None, ...] = (None,)  # with several, a process each, that denoise every stream together
    decode: str | None = None  # None: where the first denoises
    parallel: str = "ulysses"  # how they divide a stream: ulysses or tensor

    @classmethod
    def of(cls, entry: Entry | None) -> "EngineDevices":
        """Of an entry of `engines` in configs/serve.yaml: a device, several, or these fields by their names; None: the
        device that is found.

        Raises:
            ValueError: as the class, or a field that it does not have.
        """
        fields: dict[str, Any] = entry if isinstance(entry, dict) else {"denoise": entry}
        if foreign := sorted(set(fields) - {"denoise", "decode", "parallel"}):
            raise ValueError(f"engines has {foreign}, must have denoise, decode and parallel alone.")
        denoise: Any = fields.get("denoise", [])
        return cls(**{**fields, "denoise": tuple(denoise) if isinstance(denoise, list) else (denoise,)})

    def __post_init__(self) -> None:
        named = [name for name in (*self.denoise, self.decode) if name is not None]
        if not self.denoise or not all(DEVICE.fullmatch(name) for name in named):
            raise ValueError(
                f"engines has {', '.join(named) or 'nothing'}, must be devices such as cpu, cuda:0, cuda:1."
            )
        if len(set(self.denoise)) < len(self.denoise) and set(self.denoise) != {"cpu"}:
            raise ValueError(f"engines has {named} for one stream, must be a card each.")
        one_of("parallel of engines", self.parallel, WAYS)

    @property
    def name(self) -> str:
        """For operators."""
        devices = "+".join(device or "default" for device in self.denoise)
        return devices if self.decode is None else f"{devices}>{self.decode}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What a server is started with.

    Raises:
        ValueError: a value that does not exist or cannot be; the message says which are allowed.
    """

    artifact: str
    characters: str
    host: str
    port: int
    certificate: list[str] | None  # files in PEM, chain and key; None: what is sent is not encrypted here
    hosts: list[str]  # names under which the server may be asked for, besides localhost and `host`; "*" for any
    origins: list[str]  # of other sites whose pages may use it
    trusted_proxies: list[str]  # addresses or networks whose X-Forwarded-For says who the visitor is
    device: str | None
    engines: list[Entry] | None  # of each engine process, as for `EngineDevices.of`; None: one, on `device`
    sessions: SessionOptions
    num_threads: int | None
    size: int | None  # px along each side of what visitors see; None: the artifact's resolution
    lead_ms: float
    capacity: int | None  # None: measured at the start
    retry_after_s: int
    drain_s: float
    requests_per_minute: int
    ice_servers: list[str]
    seed: int
    dtype: str  # of the models, as they are computed: auto, float32 or bfloat16
    products: str  # of matrices in the denoiser on a CPU: auto or pytorch
    decode_precision: str  # of a motion artifact on a CPU: auto, float32 or bfloat16
    overlap: str  # whether a chunk is decoded while the next is denoised: auto, on or off
    undo_chunks: int  # how far a client can rewind
    text_encoder: str | None  # folder of a text encoder, for prompts; None: the artifact's own
    stt: str
    llm: str
    tts: str
    # auto: visitors may show camera and screen, to whatever looks at them here, every second; on_request: when they ask
    # the character to look; off: nobody looks
    vision: str
    mcp_servers: dict[str, McpOptions]
    trace: str | None  # where spans are sent; None: where the environment says, or nowhere

    @property
    def scheme(self) -> str:
        """Of addresses under which clients reach the server itself."""
        return "http" if self.certificate is None else "https"

    def __post_init__(self) -> None:
        one_of("stt", self.stt, RECOGNISERS)
        one_of("llm", self.llm, LANGUAGE_MODELS)
        one_of("tts", self.tts, VOICES)
        one_of("vision", self.vision, VISION)
        one_of("overlap", self.overlap, OVERLAP)
        one_of("dtype", self.dtype, PRECISIONS)
        one_of("products", self.products, PRODUCTS)
        one_of("decode_precision", self.decode_precision, PRECISIONS)
        if self.device is not None and not DEVICE.fullmatch(self.device):
            raise ValueError(f"device={self.device!r} must be null, cpu, mps, cuda, or cuda: and a number.")
        if self.engines is not None:
            if not self.engines:
                raise ValueError("engines=[] must be null, or devices such as cpu, cuda:0 and cuda:1.")
            for entry in self.engines:
                EngineDevices.of(entry)
            if self.device is not None:
                raise ValueError(f"device={self.device!r} must be null where engines={self.engines} names devices.")
        if self.certificate is not None and len(self.certificate) != 2:
            raise ValueError(f"certificate={self.certificate} must be null, or two files: the chain, and its key.")
        at_least("num_threads", 1 if self.num_threads is None else self.num_threads, 1)
        at_least("capacity", 1 if self.capacity is None else self.capacity, 1)
        at_least("requests_per_minute", self.requests_per_minute, 1)
        at_least("undo_chunks", self.undo_chunks, 0)
        at_least("retry_after_s", self.retry_after_s, 0)
        at_least("drain_s", self.drain_s, 0)
        for url in self.ice_servers:
            if url.partition(":")[0] not in ("stun", "stuns", "turn", "turns"):
                raise ValueError(f"ice_servers has {url!r}, must be such as stun:stun.example.org:3478.")
        if self.trace is not None and not self.trace.startswith(("http://", "https://")):
            raise ValueError(f"trace={self.trace!r} must be null, or such as http://localhost:4318.")
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https"):
                raise ValueError(f"origins has {origin!r}, must be such as https://example.org, without a path.")
        for proxy in self.trusted_proxies:
            try:
                ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"trusted_proxies has {proxy!r}, must be such as 10.0.0.1 or 10.0.0.0/8.") from error


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(allowed)}.")


def at_least(name: str, value: float | int, minimum: float | int) -> None:
    if not value >= minimum:  # also not a number
        raise ValueError(f"{name}={value} must be at least {minimum}.")
