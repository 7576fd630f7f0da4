"""Shapes of published Wan transformers, from and to the `config.json` beside their weights."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gwm.condition.spec import ConditionSpec
from gwm.config import DiTConfig
from gwm.files.tensors import read_json

CLIP_DIM = 1280  # of the image encoder in Wan 2.1 I2V; its original config leaves it out
FLF_TOKENS = 2 * 257  # of CLIP, of a first and a last picture
CLIP_LAYER = "img_emb.proj."  # in the original release; only models that attend to CLIP have it
PLAIN, VACE = "WanTransformer3DModel", "WanVACETransformer3DModel"  # classes of diffusers
VACE_LAYERS, VACE_CHANNELS = "vace_layers", "vace_in_channels"
# What Wan has fixed and some config.json repeat: another value is another architecture.
DIFFUSERS_FIXED = {
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "cross_attn_norm": True,
}
ORIGINAL_FIXED = {
    "patch_size": [1, 2, 2],
    "qk_norm": True,
    "cross_attn_norm": True,
    "window_size": [-1, -1],
    "text_len": 512,
    "text_dim": 4096,
}
DIFFUSERS_FREE = (
    "attention_head_dim ffn_dim num_attention_heads num_layers in_channels out_channels text_dim freq_dim eps "
    "image_dim added_kv_proj_dim pos_embed_seq_len rope_max_seq_len"
).split()
ORIGINAL_FREE = "model_type dim ffn_dim num_heads num_layers in_dim out_dim freq_dim eps".split()


def read_geometry(path: Path, *, names: Collection[str] = ()) -> DiTConfig:
    """The shape that a `config.json` of either layout describes.

    Args:
        names: of the checkpoint's tensors, by which the original release's image-to-video models are recognised: its
            config.json is the same for Wan 2.1, which attends to CLIP, and for Wan 2.2, which does not.

    Raises:
        ValueError: it is not a Wan transformer's, or of an architecture that gwm does not have.
    """
    values = read_json(path)
    if "quantization_config" in values:
        raise ValueError(
            f"{path} has a quantization_config: the weights beside it are quantised. Take the release in bfloat16."
        )
    kind = values.get("_class_name")
    if kind in (PLAIN, VACE):
        return _from_diffusers(values, source=str(path))
    if kind == "WanModel":
        image_dim = CLIP_DIM if any(CLIP_LAYER in name for name in names) else 0
        return _from_original(values, image_dim=image_dim, source=str(path))
    name = "model_type" if kind is None and "model_type" in values else "_class_name"
    remedy = "It is an autoencoder: pass it as vae=." if kind == "AutoencoderKLWan" else "Only Wan's are loaded."
    raise ValueError(
        f"{path} has {name}={values.get(name)!r}, must have _class_name {PLAIN} or {VACE} (diffusers), or WanModel "
        f"(original). {remedy}"
    )


def to_diffusers(config: DiTConfig) -> dict[str, Any]:
    """The `config.json` from which diffusers builds the same transformer."""
    layers = config.control_layers
    return {
        "_class_name": VACE if config.control_layers else PLAIN,
        **DIFFUSERS_FIXED,
        "attention_head_dim": config.head_dim,
        "ffn_dim": config.ffn_dim,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "in_channels": config.in_channels + config.given_channels,
        "out_channels": config.in_channels,
        "text_dim": config.width("text"),
        "freq_dim": config.freq_dim,
        "eps": config.eps,
        "image_dim": config.width("image") or None,
        "added_kv_proj_dim": config.dim if config.width("image") else None,
        "pos_embed_seq_len": config.places or None,
        "rope_max_seq_len": 1024,
        **({VACE_LAYERS: list(layers), VACE_CHANNELS: config.control_channels} if layers else {}),
    }


def wan_conditions(*, text: int, image: int, channels: int, places: int = 0) -> tuple[ConditionSpec, ...]:
    """What Wan declares, by width; 0: the model does not have it. places: as `ConditionSpec.places`, of the image."""
    specs = [ConditionSpec(name="text", rate="tokens", width=text, encoder="text")]
    if image:
        specs.append(ConditionSpec(name="image", rate="tokens", width=image, encoder="image", places=places))
    if channels:
        specs.append(ConditionSpec(name="given", rate="channels", width=channels))
    return tuple(specs)


def _from_diffusers(values: Mapping[str, Any], *, source: str) -> DiTConfig:
    vace = values["_class_name"] == VACE
    _check(values, DIFFUSERS_FIXED, [*DIFFUSERS_FREE, *([VACE_LAYERS, VACE_CHANNELS] if vace else [])], source=source)
    dim, image_dim = values["num_attention_heads"] * values["attention_head_dim"], values.get("image_dim") or 0
    if (values.get("added_kv_proj_dim") or 0) != (dim if image_dim else 0):
        raise ValueError(
            f"{source} has added_kv_proj_dim={values.get('added_kv_proj_dim')}, must be the width {dim} with image_dim "
            "and null without."
        )
    return DiTConfig(
        in_channels=values["out_channels"],
        conditions=wan_conditions(
            text=values["text_dim"],
            image=image_dim,
            channels=values["in_channels"] - values["out_channels"],
            places=values.get("pos_embed_seq_len") or 0,
        ),
        dim=dim,
        ffn_dim=values["ffn_dim"],
        num_heads=values["num_attention_heads"],
        num_layers=values["num_layers"],
        freq_dim=values["freq_dim"],
        eps=values["eps"],
        **({"control_layers": tuple(values[VACE_LAYERS]), "control_channels": values[VACE_CHANNELS]} if vace else {}),
    )


def _from_original(values: Mapping[str, Any], *, image_dim: int, source: str) -> DiTConfig:
    _check(values, ORIGINAL_FIXED, ORIGINAL_FREE, source=source)
    if values["model_type"] not in ("t2v", "i2v", "ti2v", "flf2v"):
        raise ValueError(f"{source} has model_type={values['model_type']!r}, must be t2v, i2v, ti2v or flf2v.")
    return DiTConfig(
        in_channels=values["out_dim"],
        conditions=wan_conditions(
            text=ORIGINAL_FIXED["text_dim"],
            image=image_dim,
            channels=values["in_dim"] - values["out_dim"],
            places=FLF_TOKENS if values["model_type"] == "flf2v" else 0,
        ),
        dim=values["dim"],
        ffn_dim=values["ffn_dim"],
        num_heads=values["num_heads"],
        num_layers=values["num_layers"],
        freq_dim=values["freq_dim"],
        eps=values["eps"],
    )


def _check(values: Mapping[str, Any], fixed: Mapping[str, Any], free: Sequence[str], *, source: str) -> None:
    optional = {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len", "rope_max_seq_len"}
    given = {key: value for key, value in values.items() if not key.startswith("_")}
    other = {key: given[key] for key in fixed if key in given and given[key] != fixed[key]}
    unknown = sorted(set(given) - set(fixed) - set(free))
    missing = sorted(set(free) - set(given) - optional)
    if other or unknown or missing:
        raise ValueError(
            f"{source}: missing keys {missing}, unknown keys {unknown}, values that must be "
            f"{ {key: fixed[key] for key in other} } but are {other}: it is another architecture than gwm's."
        )
