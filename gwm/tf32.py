"""How exactly GPUs multiply matrices in float32."""

import torch


def allow_tf32(allowed: bool) -> None:
    """Let GPUs round the factors of float32 products and convolutions to 10 bits of mantissa (TF32), or let them not.

    Without it PyTorch rounds those of convolutions alone, so that chunks are not the whole clip to the bit.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    if torch.cuda.is_available():  # the setting is also that of a CPU's products, which stay exact
        torch.set_float32_matmul_precision("high" if allowed else "highest")
