"""The changes that a client can make to its stream; part of the description of a session."""

from dataclasses import dataclass

from gwm.contract import Contract
from gwm.control import Control


@dataclass(frozen=True, slots=True)
class SessionControls:
    """The changes (`serve.live.avatar.changes`) that this model can follow, so that a client offers nothing else."""

    prompt: bool
    actions: tuple[Control, ...]  # numbers that `Act` sets: of conditions,
    code: tuple[Control, ...]  # and of a motion code
    rewind_chunks: int  # at most
    chunk_s: float
    sound: bool = True  # whether it speaks and listens

    @classmethod
    def of(cls, contract: Contract, *, rewind_chunks: int) -> "SessionControls":
        prompt, code = contract.dit.width("text") > 0, contract.codes
        actions = tuple(control for control in contract.controls if control not in code)
        return cls(prompt, actions, code, rewind_chunks, contract.chunk_ms / 1000, contract.takes_sound)
