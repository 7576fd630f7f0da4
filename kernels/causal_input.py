"""K8: the input of a causal 3-D convolution, normalised and put behind the frames it remembers, without a copy."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import choose, constexpr, kernel, power_of_two, tl

Frames = Float[Tensor, "b f h w c"]
Buffer = Float[Tensor, "b t h w c"]


def causal_input(x: Frames, weight: Float[Tensor, "c"], buffer: Buffer, *, eps: float) -> Buffer:
    """Shift `buffer` by the frames of `x`: its last frames become its first, and SiLU(RMSNorm(x) weight) follows.

    The buffer is what a convolution without padding in time reads; it is as much longer than `x` as the convolution
    looks back. Zeros are the state before a stream. Channels are last in memory, as Hopper's convolutions want them.

    Source: Wan Team 2025, arXiv:2503.20314, Sec. 4.1 (causal convolutions that keep their last two input frames).
    """
    form = choose("causal_input", x, causal_input_reference, causal_input_triton)
    form(x, weight, buffer, eps)
    return buffer


def causal_input_reference(x: Frames, weight: Float[Tensor, "c"], buffer: Buffer, eps: float) -> None:
    num_frames = x.shape[1]
    past = buffer.shape[1] - num_frames
    if past:
        buffer[:, :past] = buffer[:, num_frames:].clone()  # both parts overlap when the chunk is short
    normed = F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps)
    buffer[:, past:] = F.silu(normed).to(buffer.dtype)


@kernel
def _causal_input(
    x_ptr, weight_ptr, buffer_ptr, places, channels, eps, FRAMES: constexpr, PAST: constexpr, BLOCK: constexpr
):
    # One program per place of the picture: it alone touches that place, so frames may move within the buffer.
    place, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    frame_size = places * channels
    at = buffer_ptr + batch * (PAST + FRAMES) * frame_size + place * channels + channel
    for frame in tl.static_range(PAST):  # forwards, so that a frame is read before it is overwritten
        tl.store(at + frame * frame_size, tl.load(at + (FRAMES + frame) * frame_size, mask=inside), mask=inside)
    source = x_ptr + batch * FRAMES * frame_size + place * channels + channel
    for frame in tl.static_range(FRAMES):
        x = tl.load(source + frame * frame_size, mask=inside, other=0.0).to(tl.float32)
        x = x * tl.rsqrt(tl.sum(x * x, axis=0) / channels + eps) * weight
        y = x * tl.sigmoid(x)
        tl.store(at + (PAST + frame) * frame_size, y.to(buffer_ptr.dtype.element_ty), mask=inside)


def causal_input_triton(x: Frames, weight: Float[Tensor, "c"], buffer: Buffer, eps: float) -> None:
    if not buffer.is_contiguous():
        raise ValueError(f"buffer has strides {buffer.stride()}, must be contiguous: its frames move in place.")
    x = x.contiguous()
    batch_size, num_frames, height, width, channels = x.shape
    past, places = buffer.shape[1] - num_frames, height * width
    block = power_of_two(channels)
    _causal_input[(places, batch_size)](
        *(x, weight, buffer, places, channels, eps),
        FRAMES=num_frames,
        PAST=past,
        BLOCK=block,
        num_warps=max(1, min(2 * x.element_size(), block // 128)),  # 8 float32 numbers a thread spill on sm_80
    )
