"""The gate of models of motion latents: sampled codes against exact ones, on held-out sentences and voices.

Nothing is decoded, so identity and pictures are not judged: the autoencoder's own gate does that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.batch import latent_batch
from data.latents import heard_frames
from data.performance import Performance
from data.performances import PerformanceData
from gwm.autoencoders.motion.code import FRAMES, from_latents, physical, steadied
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.lora import merged
from gwm.metrics.acting import RATIOS, Code, distances, measure
from gwm.metrics.statistics import sign_flip_p, standard_error
from train.gate import earlier_gate, save_then_judge
from train.played import stream
from train.stage import DiTStage


def finish_acting(
    stage: DiTStage,
    data: PerformanceData,
    output: Path,
    *,
    people: int,
    seconds: float,
    batch_size: int,
    minimum: dict[str, float | None],
    before: str | None,
) -> None:
    """Save what the next stage starts from, then judge it, as `train.gate.finish` does with pictures.

    seconds: of a performance; a model that sees whole clips plays the first of them.
    """
    model, facts = stage.weights()
    model = merged(model).eval()
    assert isinstance(model, DiT), type(model)
    clips, acts = data.held_out(people, seconds)

    def judge() -> dict[str, Any]:
        own, swapped = (
            play(model, stage.contract, clips, batch_size=batch_size, seed=stage.seed, swap_voices=swap)
            for swap in (False, True)
        )
        start = heard_frames(data.acting.num_frames // FRAMES, FRAMES, data.audio).start * FRAMES
        part = slice(start, start + len(own[0]))
        heard = [(act.user[1000 * part.start : 1000 * part.stop], listens(act)[part]) for act in acts]
        return judge_acting(own, swapped, [codes(clip["x0"])[: len(own[0])] for clip in clips], heard)

    save_then_judge(output, model.state_dict(), judge, minimum=minimum, before=earlier_gate(before), **facts)


def listens(act: Performance) -> Bool[np.ndarray, " f"]:
    """Frames in which the user alone speaks."""
    return act.user_speaking & ~act.agent_speaking


def codes(x0: Float[Tensor, "n 57 2 2"]) -> Code:
    """Codes of the pixel frames of `n` latent frames."""
    return physical(from_latents(x0[None])[0]).numpy()


def decoded_codes(x0: Float[Tensor, "n 57 2 2"]) -> Code:
    """The same as the decoder uses them, with gaze and head steadied."""
    return physical(steadied(from_latents(x0[None]), x0.new_zeros(1, 5))[0][0]).numpy()


@torch.no_grad()
def play(
    model: DiT, contract: Contract, clips: list[dict[str, Tensor]], *, batch_size: int, seed: int, swap_voices: bool
) -> list[Code]:
    """Codes of every clip as the model streams it.

    swap_voices: every clip is given both voices of another clip; its manner stays its own.
    """
    size, made = contract.pattern.chunk_frames, []
    for at in range(0, len(clips), batch_size):
        batch = latent_batch([clip | {"step": 0, "slot": 0} for clip in clips[at : at + batch_size]])
        if swap_voices:
            voices = {f"frame.{spec.name}" for spec in contract.dit.conditions if spec.encoder == "speech"}
            swapped = {name: values.roll(1, dims=0) for name, values in batch.conditions.items() if name in voices}
            batch.conditions = batch.conditions | swapped
        # A model of whole clips is not trained to continue the first.
        num_frames = size if size == contract.horizon_frames else batch.x0.shape[1]
        latents = stream(model, contract, batch, num_frames=num_frames, seed=seed + at)
        made += [decoded_codes(one.float().cpu()) for one in latents]
    return made


def judge_acting(
    own: list[Code], swapped: list[Code], truth: list[Code], heard: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Means over people; their ratios to the data's (`_of_data`) and how near these are to 1 (`_likeness`, 1 at most);
    lip-sync with swapped voices; and the confidence that heads answer the user (`answer_sure`, 1 less the p-value).

    heard: of each person the user's voice, and the frames in which the person only listens.
    """
    rows, of_swapped, of_truth = (
        [measure(code, meant, *voice) for code, meant, voice in zip(made, truth, heard, strict=True)]
        for made in (own, swapped, truth)
    )
    got, data, other = table(rows), table(of_truth), table(of_swapped)
    answer = got["response"] - other["response"]
    gate: dict[str, Any] = {
        "clips": len(rows),
        "listeners": int(np.isfinite(answer).sum()),
        "lip_sync": mean(got["lip_sync"]),
        "lip_sync_error": standard_error(got["lip_sync"], [str(number) for number in range(len(rows))]),
        "lip_sync_swapped": mean(other["lip_sync"]),
        "false_mouth": mean(got["false_mouth"]),
        "response": mean(got["response"]),
        "response_of_truth": mean(data["response"]),
        "head_steps": mean(got["head_steps"]),
        "answer": mean(answer),
        "answer_sure": 1 - sign_flip_p(answer),
    }
    for name in RATIOS:
        ratio = mean(got[name]) / mean(data[name]) if mean(data[name]) else float("nan")
        gate |= {f"{name}_of_data": ratio, f"{name}_likeness": min(ratio, 1 / ratio) if ratio else 0.0}
    # What these clips cannot show is not in the gate, and so counts as not measured.
    return {name: value for name, value in (gate | distances(own, truth)).items() if np.isfinite(value)}


def mean(values: Float[np.ndarray, " k"]) -> float:
    """Mean of the finite values; NaN without one."""
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else float("nan")


def table(rows: list[dict[str, float]]) -> dict[str, Float[np.ndarray, " k"]]:
    """Columns of rows with equal keys."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
