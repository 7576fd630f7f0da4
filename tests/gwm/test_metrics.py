import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchmetrics.functional.image import structural_similarity_index_measure

from data.actions import index
from data.characters.renderer import Renderer, identity
from gwm import optional
from gwm.media.face import FaceMesh
from gwm.metrics.distance import PerceptualDistance, psnr, ssim
from gwm.metrics.face_track import face_track, head_place, lip_gap, speed
from gwm.metrics.identity import FaceEmbedding, identity_similarity
from gwm.metrics.lip_sync import correlation, lip_sync, moves
from gwm.metrics.movement import border_flicker, motion_energy, saturation
from gwm.optional import MissingPackageError


def blurred(frames: np.ndarray, radius: float) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(radius))) for f in frames])


def noisy(frames: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, frames.shape)
    return (frames + noise).round().clip(0, 255).astype(np.uint8)


def face_embedding(mesh: FaceMesh) -> FaceEmbedding:
    try:
        return FaceEmbedding(mesh)
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def openings(mesh, talks) -> list[np.ndarray]:
    return [lip_gap(face_track(talk.frames, mesh)) for talk in talks]


@pytest.fixture(scope="module")
def perceptual() -> PerceptualDistance:
    try:
        return PerceptualDistance()
    except MissingPackageError as error:
        pytest.skip(str(error))


def test_lip_opening_follows_the_true_mouth(talks, openings):
    for talk, opening in zip(talks, openings, strict=True):
        sync = lip_sync(opening, talk.mouth)
        assert sync.correlation > 0.8
        assert sync.lag_frames == 0
        assert np.isfinite(opening).all()


def test_a_head_s_place_follows_its_turn_and_not_its_jaw(mesh):
    """Against what was acted: one opens its mouth, one turns by 0.2 rad."""
    rest, rise = np.zeros(6, np.float32), np.linspace(0, 1, 6, dtype=np.float32)
    actions, still, gaze = np.zeros((6, 52), np.float32), np.zeros((6, 3), np.float32), np.zeros((6, 2), np.float32)
    actions[:, index("jawOpen")] = rise
    renderer, who = Renderer(256), identity(3, "anny")
    opened = head_place(face_track(renderer.render(who, actions, still, gaze), mesh))
    turned = renderer.render(who, 0 * actions, np.stack([0.2 * rise - 0.1, rest, rest], axis=1), gaze)
    place = head_place(face_track(turned, mesh))
    assert correlation(place[:, 0], rise) ** 2 > 0.95
    assert speed(place) > 10 * speed(opened)


def test_a_speed_is_a_second_s_and_passes_over_jitter():
    steady = np.arange(20.0)[:, None] * np.array([[0.03, 0.04]])
    assert speed(steady) == pytest.approx(24 * 0.05)
    assert speed(np.array([0.0, 1, 0, 1, 0, 1, 0])) == pytest.approx(24 / 3)


@pytest.mark.parametrize("late", [-4, 3])
def test_shifted_voice_lowers_lip_sync_and_its_lag_is_found(talks, openings, late):
    """A voice `late` frames early means a mouth `late` frames late."""
    for talk, opening in zip(talks, openings, strict=True):
        voice = np.roll(talk.mouth, -late)
        sync = lip_sync(opening, voice)
        assert sync.lag_frames == late
        assert sync.correlation < 0.5 < sync.best_correlation


def test_shuffled_voice_destroys_lip_sync(talks, openings):
    rng = np.random.default_rng(0)
    for talk, opening in zip(talks, openings, strict=True):
        shuffled = [lip_sync(opening, rng.permutation(talk.mouth)).correlation for _ in range(50)]
        assert np.abs(shuffled).mean() < 0.3  # 1 / sqrt(24 frames) is 0.2


def test_faces_not_found_are_left_out(talks, openings):
    truth, opening = talks[0].mouth, openings[0].copy()
    opening[3:9] = np.nan
    sync = lip_sync(opening, truth)
    seen = np.isfinite(opening)
    assert sync.correlation == pytest.approx(np.corrcoef(opening[seen], truth[seen])[0, 1])


@pytest.mark.parametrize("measured", [np.full(24, 0.1), np.full(24, np.nan), np.where(np.arange(24) < 22, np.nan, 1.0)])
def test_still_or_unseen_mouth_has_no_lip_sync(measured):
    sync = lip_sync(measured, np.random.default_rng(0).random(24))
    assert (sync.correlation, sync.best_correlation, sync.lag_frames) == (0, 0, 0)
    assert not moves(measured)


def test_correlation_ignores_scale_and_offset():
    a = np.random.default_rng(0).random(50)
    assert correlation(a, 3 * a + 1) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)


def test_psnr_is_its_closed_form(talks):
    truth = np.full((2, 8, 8, 3), 100, np.uint8)
    assert psnr(truth + np.uint8(5), truth) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(truth, truth) == pytest.approx(58.92, abs=0.01)


def test_ssim_equals_torchmetrics(talks):
    truth = talks[0].frames[:2]
    frames = noisy(truth, 12)
    x, y = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() for pixels in (frames, truth))
    _, similarity = structural_similarity_index_measure(x, y, data_range=255.0, return_full_image=True)
    inner = similarity[..., 5:-5, 5:-5]  # theirs sees reflections beyond the edges, ours leaves the border out
    assert ssim(frames, truth) == pytest.approx(inner.mean(dim=(1, 2, 3)).numpy(), abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_closeness_ranks_by_severity(talks, metric):
    truth = talks[0].frames[:2]
    worse = [truth, noisy(truth, 3), noisy(truth, 10), noisy(truth, 40), talks[1].frames[:2]]
    values = [metric(frames, truth).mean() for frames in worse]
    assert values[:4] == sorted(values[:4], reverse=True)
    assert values[0] > values[4]


def test_perceptual_distance_ranks_real_blurred_noise_and_another_person(talks, perceptual):
    truth = talks[0].frames[:1]

    def distance(frames: np.ndarray) -> float:
        return float(perceptual.frames(frames, truth).mean())

    assert distance(truth) == 0
    shifted, soft, softer = np.roll(truth, 1, axis=2), blurred(truth, 0.7), blurred(truth, 1.5)
    assert distance(shifted) < distance(soft) < distance(softer) < distance(noisy(truth, 25))
    assert distance(shifted) < distance(soft) < distance(talks[1].frames[:1])


def test_perceptual_distance_equals_the_authors(perceptual):
    """The number is what stlpips-pytorch 0.0.2 itself computes for these two pictures."""
    t = torch.arange(96.0) / 95
    x = torch.stack([t[:, None] * t, (1 - t)[:, None] * t, t[:, None].expand(96, 96)]) * 2 - 1
    y = torch.stack([torch.sin(20 * t)[:, None] * t, (1 - t)[:, None] * t, torch.cos(30 * t)[None].expand(96, 96)])
    assert perceptual(x[None], y[None]).item() == pytest.approx(0.7057864, abs=1e-5)


def test_perceptual_distance_has_a_gradient(perceptual):
    """A loss for the autoencoder: a step against the gradient must come closer."""
    x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)) * 2 - 1
    y = (x + 0.3 * torch.randn(x.shape, generator=torch.manual_seed(1))).requires_grad_()
    before = perceptual(y, x)
    (gradient,) = torch.autograd.grad(before.sum(), y)
    assert perceptual(y - 0.5 * gradient / gradient.norm(), x) < before


def test_the_same_person_is_more_similar_than_another(mesh, talks):
    embed = face_embedding(mesh)
    reference = talks[0].frames[0]
    same = identity_similarity(talks[0].frames[::8], reference, embed)
    others = np.concatenate([identity_similarity(talk.frames[::12], reference, embed) for talk in talks[1:]])
    assert same[0] == pytest.approx(1)
    assert same.min() > others.max() + 0.1


def test_embedding_equals_that_of_dlibs_own_landmarks(mesh, talks):
    """Oracle of the alignment: dlib's detector and five-point predictor on the same pictures."""
    embed = face_embedding(mesh)
    folder = optional.optional_folder("face_recognition_models", "") / "models"
    predictor = embed.dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    for talk in talks:
        large = np.asarray(Image.fromarray(talk.frames[0]).resize((256, 256), Image.Resampling.BICUBIC))
        (box,) = embed.dlib.get_frontal_face_detector()(large, 0)
        theirs = np.array(embed.network.compute_face_descriptor(large, predictor(large, box)))
        assert np.linalg.norm(embed(talk.frames[0]) - theirs) < 0.25  # two persons are 0.5 apart


def test_identity_of_a_picture_without_a_face_is_not_a_number(mesh, talks):
    def embed(image: np.ndarray) -> np.ndarray | None:
        return np.zeros(128) if image.any() else None

    frames = np.stack([np.zeros_like(talks[0].frames[0]), talks[0].frames[0]])
    assert np.isnan(identity_similarity(frames, talks[0].frames[0], embed)).tolist() == [True, False]
    with pytest.raises(ValueError, match="must show a face"):
        identity_similarity(frames, frames[0], embed)


def test_missing_identity_package_names_the_command(mesh, monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install dlib-bin"):
        FaceEmbedding(mesh)


def test_motion_energy_is_the_mean_step():
    frames = np.arange(0, 60, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert motion_energy(frames) == 6
    assert motion_energy(np.repeat(frames[:1], 5, axis=0)) == 0


def test_saturation_of_grey_and_pure_colours():
    grey, red, pink, black = (
        np.full((1, 4, 4, 3), c, np.uint8) for c in ([90] * 3, [200, 0, 0], [200, 100, 150], [0] * 3)
    )
    assert saturation(np.concatenate([grey, red, pink, black])) == pytest.approx([0, 1, 0.5, 0])


def test_border_flicker_sees_steps_between_chunks_only(talks):
    for talk in talks:
        real = border_flicker(talk.frames, chunk_frames=4)
        assert 0.6 < real < 1.5
        steps = np.random.default_rng(0).normal(0, 6, (len(talk.frames) // 4, 1, 1, 3)).repeat(4, axis=0)
        stepped = (talk.frames + steps).round().clip(0, 255).astype(np.uint8)
        assert border_flicker(stepped, chunk_frames=4) > 1.3 * real
    assert border_flicker(np.repeat(talks[0].frames[:1], 12, axis=0), chunk_frames=4) == 1
    with pytest.raises(ValueError, match="chunk_frames=4"):
        border_flicker(talks[0].frames[:5], chunk_frames=4)
