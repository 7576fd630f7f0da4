"""Wan families reduced in width and depth alone, as diffusers builds them and as gwm does, with the same weights."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gwm.block import MaskedClip
from gwm.chunks import ChunkPattern
from gwm.clip import clip_mask
from gwm.condition.inputs import Conditions
from gwm.condition.spec import specs_of
from gwm.config import DiTConfig
from gwm.convert import to_gwm, without_added
from gwm.dit import DiT, num_patches
from gwm.wan.vae import WanVAE
from gwm.wan.vae_config import WAN2_1_VAE, WAN2_2_VAE
from tests.tiny import declared, lively, voices

FAMILIES = ("wan2_1_1_3b", "wan2_1_14b", "wan2_1_i2v_14b", "wan2_2_ti2v_5b")
MODELS = Path(__file__).parents[1] / "configs" / "model"
HEADS, LAYERS = 2, 2
TEXT_TOKENS = 512  # diffusers takes the last 512 tokens for text, whatever comes before for the image
TEXT = 16  # width of tokens in a `published_folder`
IMAGE_TOKENS = 7  # 257 in earnest
ROWS, COLUMNS = 4, 6  # latent grid of `family_clip`: on a square one, rows and columns could be exchanged
PATCHES = 6  # tokens per latent frame
Clip = tuple[Tensor, Tensor, Conditions]  # noised latents, noise levels, conditions


def published(family: str) -> DiTConfig:
    """Shape and conditions of a published model: what its yaml says, without what gwm adds."""
    values = yaml.safe_load((MODELS / f"{family}.yaml").read_text())
    named = values["defaults"][0]["/condition@model.conditions"]
    declared = {}
    for group in named:
        if group != "voices":
            declared |= yaml.safe_load((MODELS.parent / "condition" / f"{group}.yaml").read_text())
    return without_added(DiTConfig(**values["model"], conditions=specs_of(declared)))


def reduced(family: str) -> DiTConfig:
    """Two heads of the published width, two layers, the published ratio of MLP to width."""
    whole = published(family)
    dim = HEADS * whole.head_dim
    return dataclasses.replace(
        whole, dim=dim, num_heads=HEADS, num_layers=LAYERS, ffn_dim=round(whole.ffn_dim / whole.dim * dim)
    )


def diffusers_config(config: DiTConfig) -> dict[str, Any]:
    """The published config.json of the family, written down independently of `gwm.wan.geometry`."""
    more: dict[str, Any] = {"image_dim": 1280, "added_kv_proj_dim": config.dim} if config.width("image") else {}
    if config.control_layers:
        more |= {"vace_layers": list(config.control_layers), "vace_in_channels": config.control_channels}
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": config.num_heads,
        "attention_head_dim": 128,
        "in_channels": {(16, 0): 16, (16, 1280): 36, (48, 0): 48}[config.in_channels, config.width("image")],
        "out_channels": config.in_channels,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "rope_max_seq_len": 1024,
        **more,
    }


def in_diffusers(config: DiTConfig, **changes: Any) -> Any:
    """A randomly initialised transformer, VACE's where there are such layers, in which nothing is zero or one any
    more."""
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    torch.manual_seed(1)
    shape = diffusers_config(config) | changes
    model = lively((WanVACETransformer3DModel if "vace_layers" in shape else WanTransformer3DModel)(**shape).eval())
    for parameter in model.parameters():
        if (parameter == 1).all():
            torch.nn.init.normal_(parameter, mean=1, std=0.3)
    return model


def in_gwm(theirs: Any, config: DiTConfig) -> DiT:
    model = DiT(config)
    model.load_state_dict(to_gwm(theirs.state_dict(), config, source="test"))
    return model.eval()


def family_clip(config: DiTConfig, num_frames: int, batch_size: int = 2) -> Clip:
    """Noised latents, one noise level per clip, and all conditions that the family has."""
    shape = (batch_size, num_frames)
    tokens = {"text": torch.randn(batch_size, TEXT_TOKENS, config.width("text"))}
    channels = {}
    if config.width("image"):
        tokens["image"] = torch.randn(batch_size, IMAGE_TOKENS, config.width("image"))
    if config.given_channels:
        channels["given"] = torch.randn(*shape, config.given_channels, ROWS, COLUMNS)
    condition = Conditions(tokens=tokens, channels=channels)
    sigma = torch.tensor([0.375, 0.8125])[:batch_size, None].expand(shape)
    return torch.randn(*shape, config.in_channels, ROWS, COLUMNS), sigma, condition


def with_added(config: DiTConfig, *, speech: int, action: int, mels: int = 3) -> DiTConfig:
    """The config with what gwm adds: two voices and an action."""
    config = dataclasses.replace(config, conditions=(*config.conditions, *voices(speech)), speech_mels=mels)
    return declared(config, action=action) if action else config


def with_voices(clip: Clip, *, speech: int, action: int, scale: float = 1.0) -> Clip:
    """The clip with two voices and actions; at scale 0 none of them is given."""
    x, sigma, condition = clip
    agent, user = scale * torch.randn(2, *x.shape[:2], speech)
    frame = {"agent": agent, "user": user, "action": scale * torch.randn(*x.shape[:2], action)}
    return x, sigma, dataclasses.replace(condition, frame={**condition.frame, **frame})


def their_velocity(theirs: Any, clip: Clip) -> Tensor:
    """diffusers has channels before frames, and a timestep per clip or per token."""
    x, sigma, condition = clip
    whole = torch.cat([x, *condition.channels.values()], dim=2)
    one_level = bool((sigma == sigma[:, :1]).all())
    patches = (x.shape[-2] // 2) * (x.shape[-1] // 2)
    timestep = 1000 * (sigma[:, 0] if one_level else sigma.repeat_interleave(patches, 1))
    return theirs(whole.transpose(1, 2), timestep, condition["text"], condition.tokens.get("image"))[0].transpose(1, 2)


def our_velocity(ours: DiT, clip: Clip, pattern: ChunkPattern | None = None) -> Tensor:
    x, sigma, condition = clip
    patches = num_patches(x, ours.config)
    mask = None if pattern is None else clip_mask(x.shape[1], pattern, patches=patches, device=x.device)
    return ours(x, sigma, condition, positions=torch.arange(x.shape[1]), context=MaskedClip(mask)).velocity


def save_text_encoder(folder: Path, *, width: int, seed: int = 0) -> Path:
    """A umT5 of random weights that knows few words, in the layout of a diffusers pipeline."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    words = ["<pad>", "</s>", "<unk>", "a", "woman", "smiles", "talks", "&", "'", "s", "A"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    fast.save_pretrained(folder / "tokenizer")
    shape = UMT5Config(vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    UMT5EncoderModel(shape).save_pretrained(folder / "text_encoder")
    return folder


def their_tokens(folder: Path, caption: str) -> Tensor:
    """What diffusers' pipeline gives the transformer of a caption: 512 tokens, zeros after its own."""
    from diffusers import WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    parts: dict[str, Any] = {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
    }
    pipeline = WanPipeline(**parts, vae=None, scheduler=None, transformer=None)
    return pipeline._get_t5_prompt_embeds(caption, max_sequence_length=512, device=torch.device("cpu"))[0]


def save_image_encoder(folder: Path, *, width: int) -> Path:
    """A CLIP of random weights that looks at 28 pixels in patches of 14, in the layout of a diffusers pipeline."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    side = {"height": 28, "width": 28}
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side).save_pretrained(folder / "image_processor")
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    shape = CLIPVisionConfig(hidden_size=width, image_size=28, patch_size=14, **layers)
    CLIPVisionModel(shape).save_pretrained(folder / "image_encoder")
    return folder


def published_folder(folder: Path, family: str, **more: Any) -> Path:
    """A pipeline as diffusers writes it: random weights, one layer, encoders of width TEXT.

    more: of the transformer's config.
    """
    torch.manual_seed(0)
    shape: dict[str, Any] = {"text_dim": TEXT, "num_layers": 1, "ffn_dim": 64}
    shape |= more | ({"image_dim": TEXT} if family == "wan2_1_i2v_14b" else {})
    in_diffusers(reduced(family), **shape).save_pretrained(folder / "transformer")
    published = WAN2_2_VAE if family == "wan2_2_ti2v_5b" else WAN2_1_VAE
    thin = WanVAE(dataclasses.replace(published, base_dim=4, decoder_base_dim=4))
    thin.model.save_pretrained(folder / "vae")
    save_text_encoder(folder, width=TEXT)
    return save_image_encoder(folder, width=TEXT) if family == "wan2_1_i2v_14b" else folder
