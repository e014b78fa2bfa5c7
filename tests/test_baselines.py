"""The baselines of the few-shot table: each learns from its shots, obeys its seeds, and refuses what it cannot use."""

from __future__ import annotations

import copy
from dataclasses import replace

import conftest
import pytest
import torch

from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.baselines import (
    Baseline,
    ClassVote,
    ConditionalGAN,
    Ignoring,
    LinearGAN,
    Ours,
    Refined,
    methods_for,
)
from sis_rearrange.evaluation.baselines import ours as ours_module
from sis_rearrange.evaluation.baselines.conditional_gan import divergence, hinge, matching
from sis_rearrange.evaluation.baselines.spade import Judged, PatchDiscriminator, SpatialGenerator
from sis_rearrange.evaluation.baselines.vote import votes
from sis_rearrange.evaluation.networks import Networks
from sis_rearrange.features import sample_ws
from sis_rearrange.pack import Pack, load_pack
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.distil import DistilConfig
from sis_rearrange.training.few_shot import Shot

SIDE, TAP = 16, 8  # pixels and cells: half of the tiny pack's, so that trainings take a quarter
SHOTS, OTHERS = range(20, 24), [31, 32, 33, 34]
DARK, LIGHT = 0, 3  # classes that `seen` finds


def tiny_methods() -> dict[str, Baseline]:
    ours = Ours(
        distil=DistilConfig(extractor_steps=5, steps=5, batch=4, widths=(8, 16)),
        chosen={"kimg": 0.1, "lr": 1e-2, "widths": (8, 16), "cycle": 0},
    )
    return {
        method.name: method
        for method in (
            Ignoring(),
            ClassVote(),
            ConditionalGAN(kind="linear", extractor_steps=100, pool=32, steps=24, lr=4e-3),
            LinearGAN(extractor_steps=150, candidates=12, steps=8),
            ours,
            Refined(ours),
        )
    }


def seen(images: torch.Tensor) -> torch.Tensor:
    """A judge that needs no training: light or dark, smoothed, against the picture's own mean."""
    light = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 5, 1, 2, count_include_pad=False)[:, 0]
    return torch.where(light > light.mean(dim=(1, 2), keepdim=True), LIGHT, DARK)


@pytest.fixture(scope="module")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "SIDE", SIDE)
        patch.setattr(conftest, "TAP", TAP)
        return load_pack(conftest.write_tiny_pack(tmp_path_factory.mktemp("packs") / "tiniest"))


@pytest.fixture(scope="module")
def shots(tiny_pack: Pack) -> list[Shot]:
    generator = tiny_pack.generator()
    ws = sample_ws(generator, SHOTS)
    with torch.no_grad():
        labels = seen(generator.synthesis(ws).clamp(-1, 1))
    return [Shot(w, mask) for w, mask in zip(ws, labels, strict=True)]


@pytest.fixture(scope="module")
def fitted(tiny_pack: Pack, shots: list[Shot]) -> dict[str, Baseline]:
    methods = tiny_methods()
    for method in methods.values():
        method.fit(tiny_pack, shots, seed=0, progress=False)
    return methods


def masks_of(shots: list[Shot]) -> torch.Tensor:
    return torch.stack([shot.labels for shot in shots])


# ---- direction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lineargan", "cgan"])
def test_pictures_follow_the_masks_of_the_training_pairs(fitted, shots, name):
    masks = masks_of(shots)
    followed, ignored = (
        (seen(fitted[m].synthesize(masks, OTHERS)) == masks).float().mean() for m in (name, "ignoring")
    )
    assert followed > ignored + 0.05


def test_votes_follow_the_masks_of_the_training_pairs(tiny_pack):
    """The tiny rearranger is not trained, so what it is asked for is looked at. The clusters are the classes here."""
    networks = Networks.of(tiny_pack, 0.9, rearranger=False)
    source, others = networks.sources(SHOTS), networks.sources(OTHERS)
    masks = source.labels.repeat_interleave(2, 1).repeat_interleave(2, 2) + 2
    vote = ClassVote()
    vote.fit(tiny_pack, [Shot(w, mask) for w, mask in zip(source.ws, masks, strict=True)], seed=0, progress=False)
    agreement = (vote.asked(masks, source.labels) == source.labels).float().mean()
    assert agreement > 0.9 > (others.labels == source.labels).float().mean()


def test_our_mapper_learns_the_proxy_masks(fitted, tiny_pack, shots):
    own = Networks.of(tiny_pack, 0.9, rearranger=False).sources(SHOTS).labels
    trained = tiny_methods()["ours"]
    assert isinstance(trained, Ours)
    fresh = replace(trained, chosen={**trained.chosen, "kimg": 0.001})
    fresh.fit(tiny_pack, shots, seed=0, progress=False)
    learnt, guessed = (method.asked(masks_of(shots), own) == own for method in (fitted["ours"], fresh))
    assert learnt.float().mean() > guessed.float().mean() + 0.05


def test_more_search_follows_the_mask_more_closely(shots, fitted):
    many = fitted["lineargan"]
    few = copy.copy(many)  # with what it has learnt
    few.candidates, few.steps = 1, 0
    masks = masks_of(shots)
    with torch.no_grad():
        start, best = few.best(masks, OTHERS), many.best(masks, OTHERS)
        chosen = many.mismatch(best, masks)
        assert (many.mismatch(start, masks) >= chosen).all() and (many.mismatch(start, masks) > chosen).any()
    refined = many.refine(best, masks)
    assert many.mismatch(refined, masks).mean() < chosen.mean()
    assert torch.equal(few.refine(start, masks), start)


def test_votes_go_to_the_cluster_that_a_class_covers_most():
    parts = one_hot(torch.tensor([[[0, 0, 0, 1], [1, 1, 1, 1]]]), 3)
    clusters = one_hot(torch.tensor([[[2, 2, 1, 1], [1, 1, 0, 0]]]), 3)
    table = votes(parts, clusters)
    assert table.sum(dim=1) == pytest.approx(torch.ones(3))
    assert table.argmax(dim=1).tolist() == [2, 1, 1]  # the class that never occurs: the commonest cluster
    assert table[0, 2] == pytest.approx(2 / 3, abs=1e-3)


def test_only_clusters_of_the_source_are_asked_for(fitted):
    source = torch.full([1, TAP, TAP], 4)
    mask = torch.full([1, SIDE, SIDE], LIGHT)
    for name in ("vote", "ours"):
        with torch.no_grad():
            assert fitted[name].asked(mask, source).unique().tolist() == [4]


# ---- the interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_methods())
def test_a_picture_depends_on_its_mask_and_seed_alone(fitted, shots, name):
    masks = masks_of(shots)
    whole = fitted[name].synthesize(masks, OTHERS)
    assert whole.shape == (4, 3, SIDE, SIDE) and whole.dtype == torch.float32 and whole.abs().max() <= 1
    assert not whole.requires_grad
    alone = fitted[name].synthesize(masks[2:3], OTHERS[2:3])
    assert torch.allclose(whole[2:3], alone, atol=2e-3)
    assert not torch.allclose(fitted[name].synthesize(masks[2:3], [99]), alone, atol=1e-3)


@pytest.mark.parametrize("name", ["cgan", "ours"])
def test_the_seed_decides_what_is_learnt(tiny_pack, shots, name):
    found = []
    for seed in (0, 0, 1):
        short = {
            "cgan": ConditionalGAN(kind="linear", extractor_steps=2, pool=8, batch=2, steps=2),
            "ours": Ours(
                distil=DistilConfig(extractor_steps=2, steps=1, batch=2, widths=(8,)),
                chosen={"kimg": 0.016, "widths": (8, 16), "cycle": 0},
            ),
        }[name]
        short.fit(tiny_pack, shots, seed=seed, progress=False)
        asked = short.asked(masks_of(shots), torch.arange(TAP**2).reshape(1, TAP, TAP) % 5) if name == "ours" else None
        found.append(short.synthesize(masks_of(shots), OTHERS) if asked is None else asked)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_refined_method_learns_nothing_twice(tiny_pack, shots, monkeypatch):
    trained: list[str] = []
    monkeypatch.setattr(ours_module, "run_to_end", lambda training, progress: trained.append(training.name))
    methods = tiny_methods()
    for method in (methods["ours"], methods["refined"]):
        method.fit(tiny_pack, shots, seed=0, progress=False)
    assert len(trained) == 2 and methods["refined"].fit_seconds == methods["ours"].fit_seconds > 0
    methods["refined"].fit(tiny_pack, shots[:2], seed=0, progress=False)
    methods["ours"].fit(tiny_pack, shots[:2], seed=1, progress=False)
    assert len(trained) == 6
    assert methods["refined"].settings() == {**methods["ours"].settings(), "refine": 12, "reach": 12.0}


def test_the_pack_stays_as_it_is(fitted, tiny_pack):
    generator = tiny_pack.generator()
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert not generator.training


@pytest.mark.parametrize("name", tiny_methods())
def test_misuse_is_refused(tiny_pack, name, fitted, shots):
    method = tiny_methods()[name]
    with pytest.raises(ValueError, match="call fit first"):
        method.synthesize(torch.zeros(1, SIDE, SIDE, dtype=torch.int64), [1])
    with pytest.raises(ValueError, match="expected a tensor of shape"):
        fitted[name].synthesize(torch.zeros(2, SIDE, SIDE, dtype=torch.int64), [1])
    if method.learns:
        with pytest.raises(InputError, match="no annotated sample"):
            method.fit(tiny_pack, [], seed=0, progress=False)
        with pytest.raises(ValueError, match="labels must lie"):
            method.fit(tiny_pack, [Shot(shots[0].ws, shots[0].labels - 1)], seed=0, progress=False)


def test_quick_methods_train_for_a_shorter_time_and_search_as_long():
    quick, full = methods_for(True, 0.9), methods_for(False, 0.9)
    assert list(quick) == list(full) == ["ignoring", "vote", "cgan", "lineargan", "ours", "refined"]
    assert quick["lineargan"].settings() == full["lineargan"].settings()
    assert quick["cgan"].settings()["steps"] < full["cgan"].settings()["steps"]
    assert quick["ours"].settings()["mapper"]["kimg"] < full["ours"].settings()["mapper"]["kimg"]


# ---- the conditional GAN's parts -------------------------------------------------------------------------------------


def test_the_generator_listens_to_mask_and_style():
    torch.manual_seed(0)
    net = SpatialGenerator(3, 32, 4)
    mask, style = one_hot(torch.randint(0, 3, [1, 32, 32]), 3), torch.randn(1, 4)
    picture = net(mask, style)
    assert picture.shape == (1, 3, 32, 32)
    assert (net(mask.roll(1, dims=1), style) - picture).abs().mean() > 1e-3
    assert (net(mask, -style) - picture).abs().mean() > 1e-3
    with pytest.raises(ValueError, match="power of two"):
        SpatialGenerator(3, 48, 4)


def test_the_discriminator_sees_the_mask():
    torch.manual_seed(0)
    net, mask = PatchDiscriminator(3).eval(), one_hot(torch.randint(0, 3, [1, 32, 32]), 3)
    picture = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(net(picture, mask).logits, net(picture, mask.flip(3)).logits)
    assert len(net(picture, mask).features) == 3


def test_losses_point_the_right_way():
    sure = Judged(torch.full([1, 1, 2, 2], 2.0), []), Judged(torch.full([1, 1, 2, 2], -2.0), [])
    assert hinge(*sure) == 0 and hinge(*sure[::-1]) == 6
    assert matching([torch.ones(2)], [torch.ones(2)]) == 0 < matching([torch.ones(2)], [torch.zeros(2)])
    zero = torch.zeros(1, 4)
    assert divergence(zero, zero) == 0 < divergence(zero + 1, zero) and divergence(zero, zero + 1) > 0
