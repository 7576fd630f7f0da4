"""When chunks are begun: lengths of the stream, how long chunks have lately taken, and where speech may begin."""

from collections import deque
from dataclasses import dataclass
from statistics import median

WATCHED_CHUNKS = 180  # the latest, half a minute of them, of which the slowest counts
RARE = 0.05  # of the chunks: the slowest, of which one hardly comes just when speech begins
LEFT = 0.8  # of a chunk's length that is at least still to be played when the next one is begun
HEADROOM = 1.3  # times what chunks took, that the next may take: speech that begins slows them down


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """Samples of a chunk and of its lookahead, and how far the engine may be ahead of what is heard (the lead)."""

    chunk_samples: int
    lookahead_samples: int  # of the character's voice, which is known before it is heard: nobody waits for it
    frame_samples: int
    sample_rate: int
    lead_samples: int
    in_flight_chunks: int = 0  # that the engine has begun when it returns a chunk: one where chunks overlap

    def __post_init__(self) -> None:
        if self.lead_samples < self.chunk_samples:
            raise ValueError(
                f"lead of {self.lead_samples} samples must be at least a chunk's {self.chunk_samples}: otherwise "
                "nothing could be played. Raise lead_ms."
            )

    @property
    def delay_ms(self) -> float:
        """From when speech is taken to when it is heard and seen, at most."""
        return 1000 * (self.in_flight_chunks * self.chunk_samples + self.lead_samples) / self.sample_rate


class ChunkTimes:
    """How long the latest chunks took, and so when the next one is begun."""

    def __init__(self, timing: StreamTiming) -> None:
        self.timing = timing
        self._taken_s = deque[float](maxlen=WATCHED_CHUNKS)

    def add(self, seconds: float) -> None:
        """What a chunk has taken, from its request to its frames."""
        self._taken_s.append(seconds)

    def room_samples(self, *, silent: bool, speech_waits: bool) -> int:
        """The room in the playout for which a chunk waits before it is begun: that as much as the slowest of the latest
        needs, and `LEFT`, is still to be played. It ends up within the lead, as it is played while it is made.

        silent: the latest chunk can be made again when speech begins, and the next one must be in time after that.
        speech_waits: it is too late for that: the next chunk is begun as early as the lead allows.
        """
        timing, taken_s = self.timing, self._taken_s
        if not taken_s:
            return timing.chunk_samples
        lead_s, chunk_s = timing.lead_samples / timing.sample_rate, timing.chunk_samples / timing.sample_rate
        earliest_s = lead_s - chunk_s + min(taken_s)
        needed_s = HEADROOM * max(taken_s)
        if silent and self._two_chunks_s() <= lead_s:
            needed_s = self._two_chunks_s()
        left_s = max(needed_s, min(lead_s - chunk_s, LEFT * chunk_s))
        return timing.lead_samples - int(timing.sample_rate * (earliest_s if speech_waits else min(left_s, earliest_s)))

    def onset_sample(self, *, queued_samples: int) -> int | None:
        """The sample of the latest chunk from which on it can have speech, made again before that is heard; None where
        the next chunk might then be late, or would be there as soon.

        queued_samples: that wait to be played, the rest of the latest chunk at their end.
        """
        timing = self.timing
        if not self._taken_s or queued_samples < timing.sample_rate * self._two_chunks_s():
            return None
        begin = queued_samples - timing.chunk_samples  # of the latest chunk, from what is played now
        sample = max(0, int(HEADROOM * timing.sample_rate * median(self._taken_s)) - begin)
        return sample if sample < timing.chunk_samples else None

    def _two_chunks_s(self) -> float:
        """In which a chunk is made again and then the next one, which may be slow, but not one of the rare."""
        taken_s = sorted(self._taken_s)
        return HEADROOM * (median(taken_s) + taken_s[-1 - int(RARE * len(taken_s))])
