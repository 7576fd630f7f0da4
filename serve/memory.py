"""Refuse streams that do not fit into memory, before anything of them is allocated."""

from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from serve.artifact import Artifact
from serve.decoder import blank_memory

MEMORY = Path("/proc/meminfo")


def slot_bytes(artifact: Artifact, *, undo_chunks: int, text_tokens: int, size: int | None = None) -> int:
    """Memory of one session: keys and values, what can be taken back, the reference, and the decoder's memory; of a
    model with a text condition also the text, its keys and values, and what recache needs (`serve.history`)."""
    contract, pattern = artifact.contract, artifact.contract.pattern
    element = artifact.dit.head.weight.element_size()
    width = contract.dit.num_layers * contract.dit.dim * element
    frames = 2 * (pattern.sink_frames + pattern.ring_frames + undo_chunks * pattern.chunk_frames) + pattern.sink_frames
    latent = torch.empty(1, 1, contract.dit.in_channels, *contract.latent_grid, device="meta")
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone: nothing is computed or allocated
        memory = blank_memory(artifact.vae, contract.framing(size))
    constant, moving = (sum(part.nbytes for part in parts) for parts in (memory.constant, memory.moving))
    reference = latent.numel() * element
    own = frames * contract.num_patches * width + reference + constant + (1 + undo_chunks) * moving
    if not contract.dit.of_rate("tokens"):
        return own
    prompt = text_tokens * (2 * width + 2 * contract.dit.width("text") * element)  # the text, and the empty prompt
    history = 1 + (pattern.window_chunks - 2 + undo_chunks) * pattern.chunk_frames  # latent frames
    frame_width = sum(spec.width for spec in contract.dit.of_rate("frame"))
    if contract.context == "noisy":
        history = 0
    return own + prompt + history * (reference + frame_width * element)


def host_bytes() -> int:
    """Memory that programs can have without swapping; cached files count as free."""
    lines = (line.split() for line in MEMORY.read_text().splitlines())
    return next(1024 * int(number) for name, number, *_ in lines if name == "MemAvailable:")


def slots_that_fit(artifact: Artifact, *, undo_chunks: int, text_tokens: int, size: int | None = None) -> int:
    """How many more streams fit into the memory that is free now."""
    each = slot_bytes(artifact, undo_chunks=undo_chunks, text_tokens=text_tokens, size=size)
    return _free_bytes(artifact) // each


def check_memory(
    artifact: Artifact, *, slots: int, undo_chunks: int, text_tokens: int, size: int | None = None
) -> None:
    """Refuse more streams than fit into memory.

    Raises:
        RuntimeError: the device has not enough free memory for the slots.
    """
    each = slot_bytes(artifact, undo_chunks=undo_chunks, text_tokens=text_tokens, size=size)
    available, device = _free_bytes(artifact), artifact.dit.head.weight.device
    if slots * each > available:
        raise RuntimeError(
            f"slots={slots} of {each} bytes each must fit into the {available} bytes that are free on {device}: "
            f"{available // each} would. Lower slots, undo_chunks={undo_chunks} or the window."
        )


def _free_bytes(artifact: Artifact) -> int:
    device = artifact.dit.head.weight.device
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_bytes()


def check_clip_memory(artifact: Artifact, what: str, *, lower: str) -> None:
    """Refuse a whole clip of a published model that surely does not fit: counted are its pictures in float32, before
    and after, and of one pass of the network what a single block holds. More is needed, this much is certain.

    what, lower: of the message: what so many pictures are, and the setting by which they become fewer.

    Raises:
        RuntimeError: the device has not so much free memory.
    """
    contract, weight = artifact.contract, artifact.dit.head.weight
    resolution, frames = contract.resolution, contract.horizon_frames + 1
    num_frames = 1 + contract.vae.temporal_stride * contract.horizon_frames
    pictures = 2 * num_frames * resolution.height * resolution.width * 3 * 4
    tokens = frames * contract.num_patches
    network = tokens * (6 * contract.dit.dim + contract.dit.ffn_dim) * weight.element_size()
    if (needed := max(pictures, network)) > (available := _free_bytes(artifact)):
        raise RuntimeError(
            f"{what}{num_frames} pictures of {resolution} px need at least {needed} bytes, {available} are free on "
            f"{weight.device}. Lower {lower} or resolution."
        )
