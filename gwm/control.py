"""Control: a second stack of blocks over channels that say what is known of a clip and what is to be drawn (VACE)."""

from jaxtyping import Float
from torch import Tensor, nn

from gwm.block import Branch, Context, DiTBlock, Prompt
from gwm.config import DiTConfig
from gwm.rope import Rotation

CONTROL = "control"  # the name of these channels among a clip's conditions


class ControlBlocks(nn.Module):
    """What is added to the tokens, by the layer behind which it is. It sees the tokens as they enter the model, and the
    whole clip: streams have no cache for it.

    Source: Jiang et al. 2025, arXiv:2503.07598, Sec. 3.3; diffusers 0.42 transformer_wan_vace.py.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.layers, count = config.control_layers, len(config.control_layers)
        self.patch_embedding = nn.Linear(config.patch**2 * config.control_channels, config.dim)
        self.before = nn.Linear(config.dim, config.dim)
        self.blocks = nn.ModuleList(DiTBlock(config, layer) for layer in range(count))
        self.after = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(count))

    def forward(
        self,
        patches: Float[Tensor, "b f p k"],
        tokens: Float[Tensor, "b f p d"],
        modulation: Float[Tensor, "b f 6 d"],
        rotation: Rotation,
        context: Context,
        prompt: Prompt | None,
    ) -> dict[int, Float[Tensor, "b f p d"]]:
        x, found = tokens + self.before(self.patch_embedding(patches)), dict[int, Tensor]()
        for layer, block, after in zip(self.layers, self.blocks, self.after, strict=True):
            x, branch, _ = block(x, Branch(), modulation, rotation, context, prompt)
            if branch.y is not None:  # no later norm adds it here
                x = x + (branch.y if branch.gate is None else branch.gate * branch.y)
            found[layer] = after(x)
        return found
