"""What of a stream a client can change, as the description of its session says."""

from dataclasses import dataclass

from gwm.contract import Contract


@dataclass(frozen=True, slots=True)
class SessionControls:
    """The changes (`serve.live.avatar.changes`) that this model can follow, so that a client offers nothing else."""

    prompt: bool
    actions: tuple[str, ...]  # the names that `Act` knows
    rewind_chunks: int  # at most
    chunk_s: float

    @classmethod
    def of(cls, contract: Contract, *, rewind_chunks: int) -> "SessionControls":
        prompt, names = contract.dit.width("text") > 0, contract.dit.names("action")
        return cls(prompt, names, rewind_chunks, contract.chunk_ms / 1000)
