"""Weights of other programs: the same pictures as those programs paint, nothing left out silently, and back again."""

from __future__ import annotations

import re
from typing import Any

import layouts
import pytest
import torch

from sis_rearrange.conversion import KINDS, for_label, kind_of, to_official, to_rosinality
from sis_rearrange.errors import InputError
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.weights import NetworkRecord

CHANNELS = [24, 24, 16, 8]  # from 4x4 to 32x32
LATENT = 12
CLOSE: dict[str, Any] = dict(rtol=0, atol=1e-4)


def record(layout: str, state: Any, config: dict[str, Any] | None = None, **extras: Any) -> NetworkRecord:
    return NetworkRecord(layout, "it", None, config or {}, dict(state), extras)


def build(config: dict[str, Any], state: dict[str, torch.Tensor]) -> Any:
    network = KINDS[config["kind"]](**config["args"])
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


def z(count: int = 3) -> torch.Tensor:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(9))


def images(count: int = 3) -> torch.Tensor:
    """Of different contrast, so that they get different scores."""
    noise = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    return noise * torch.arange(1, count + 1)[:, None, None, None]


def official(c_dim: int = 0, **changes: Any) -> Generator:
    torch.manual_seed(3)
    sizes = {"channel_base": 256, "channel_max": 24, "num_layers": 2} | changes
    generator = Generator(LATENT, c_dim, LATENT, 32, **sizes).eval().requires_grad_(False)
    for name, tensor in generator.state_dict().items():
        if name.endswith(("bias", "noise_strength", "w_avg")):
            tensor += 0.2 * torch.randn(tensor.shape)
    return generator


# ---------------------------------------------------------------- the pictures of those programs


def test_a_rosinality_generator_paints_its_pictures():
    state = layouts.rosinality_generator(0, CHANNELS)
    mean = layouts.rosinality_w(state, z(50)).mean(0)
    config, made, report = to_official(record("rosinality", state, latent_avg=mean[None]))
    assert config["args"]["img_resolution"] == 32 and config["kind"] == "generator"
    for psi in (1.0, 0.6):
        expected = layouts.rosinality_picture(state, z(), psi, mean)
        assert expected.std() > 0.5
        torch.testing.assert_close(build(config, made)(z(), truncation_psi=psi), expected, **CLOSE)
    assert set(report.renamed) == {*state, "latent_avg"} and not report.dropped


def test_a_rosinality_discriminator_gives_its_scores():
    state = layouts.rosinality_discriminator(1, CHANNELS)
    config, made, _ = to_official(record("rosinality", state))
    expected = layouts.rosinality_scores(state, images(4))
    assert expected.std() > 0.02
    torch.testing.assert_close(build(config, made)(images(4)), expected, **CLOSE)


@pytest.mark.parametrize("labels", [0, 3])
def test_a_tensorflow_generator_paints_its_pictures(labels):
    state = layouts.tensorflow_generator(2, CHANNELS, labels)
    config, made, report = to_official(record("tensorflow", state, {"architecture": "skip", "fmap_base": 128}))
    c = torch.eye(labels) if labels else None
    for psi in (1.0, 0.6):
        expected = layouts.tensorflow_picture(state, z(), psi, c)
        assert expected.std() > 0.5
        torch.testing.assert_close(build(config, made)(z(), c, truncation_psi=psi), expected, **CLOSE)
    assert set(report.renamed) == set(state)


@pytest.mark.parametrize(("labels", "layers"), [(0, 0), (3, 0), (3, 2)])
def test_a_tensorflow_discriminator_gives_its_scores(labels, layers):
    state = layouts.tensorflow_discriminator(3, CHANNELS, labels, layers)
    config, made, report = to_official(record("tensorflow", state, {"mbstd_group_size": 4}))
    c = torch.eye(labels) if labels else None
    expected = layouts.tensorflow_scores(state, images(), c)
    assert expected.std() > 0.02
    torch.testing.assert_close(build(config, made)(images(), c), expected, **CLOSE)
    assert list(report.dropped) == ["lod"]


def test_the_reference_pictures_depend_on_every_tensor():
    """So that agreeing with them means something: kernels cannot lie transposed or flipped, no bias can be lost."""
    for make, paint in (
        (layouts.rosinality_generator, lambda s: layouts.rosinality_picture(s, z(1), 0.5, torch.ones(LATENT))),
        (layouts.tensorflow_generator, lambda s: layouts.tensorflow_picture(s, z(1), 0.5)),
    ):
        state = make(4, [8, 6, 4])
        before = paint(state)
        for name, tensor in state.items():
            changed = tensor.flip(list(range(tensor.ndim))) if tensor.ndim > 3 else tensor * 1.1
            assert not torch.allclose(paint({**state, name: changed}), before, atol=1e-4), name


# ---------------------------------------------------------------- and back


@pytest.mark.parametrize("make", [layouts.rosinality_generator, layouts.rosinality_discriminator])
def test_there_and_back_is_exact(make):
    state = make(5, CHANNELS)
    config, made, _ = to_official(record("rosinality", state, latent_avg=torch.ones(LATENT)))
    back, extras, report = to_rosinality(config, made)
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)
    assert all(name.endswith("resample_filter") for name in report.dropped)
    again = to_official(record("rosinality", back, **extras))
    assert again[0] == config and all(torch.equal(again[1][name], made[name]) for name in made)


def test_an_official_generator_paints_the_same_in_the_rosinality_layout():
    generator = official()
    config = {"kind": "generator", "args": generator.config}
    state, extras, _ = to_rosinality(config, generator.state_dict())
    expected = generator(z(), truncation_psi=0.5)
    torch.testing.assert_close(layouts.rosinality_picture(state, z(), 0.5, extras["latent_avg"]), expected, **CLOSE)


@pytest.mark.parametrize(
    ("base", "answer"), [(32768, "--channel_multiplier 2"), (16384, "--channel_multiplier 1"), (8192, "its table")]
)
def test_the_report_says_how_to_load_it_there(base, answer):
    with torch.device("meta"):
        generator = Generator(512, 0, 512, 64, channel_base=base)
    _, _, report = to_rosinality({"kind": "generator", "args": generator.config}, generator.state_dict())
    assert answer in report.notes[0] and "--size 64" in report.notes[0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"c_dim": 3}, "class-conditional"), ({"img_channels": 1}, "3 image channels"), ({"z_dim": 8}, "as wide as w")],
)
def test_what_rosinality_has_no_place_for_is_refused(changes, word):
    with pytest.raises(InputError, match=word):
        to_rosinality({"kind": "generator", "args": official().config | changes}, official().state_dict())


# ---------------------------------------------------------------- official networks


@pytest.mark.parametrize("c_dim", [0, 3])
def test_official_networks_stay_as_they_are(c_dim):
    torch.manual_seed(0)
    discriminator = Discriminator(c_dim, 32, channel_base=256, channel_max=24)
    for network in (official(c_dim), discriminator):
        config, state, report = to_official(record("pytorch", network.state_dict()))
        assert config["args"] == network.config and set(report.kept) == set(state)
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
        assert not (report.renamed or report.added or report.dropped)


def test_wrapped_names_are_unwrapped():
    state = {f"module.{name}": tensor for name, tensor in official().state_dict().items()}
    assert set(to_official(record("plain", state))[1]) == set(official().state_dict())
    assert kind_of(state) == ("pytorch", "generator")


def test_another_learning_rate_of_the_mapping_is_folded_in():
    generator = official()
    state = {n: t / 4 if n.startswith("mapping.fc") else t for n, t in generator.state_dict().items()}
    config = {"mapping_kwargs": {"lr_multiplier": 0.04}}
    args, made, report = to_official(record("pytorch", state, config))
    torch.testing.assert_close(build(args, made)(z()), generator(z()), **CLOSE)
    assert "scaled by 4" in " ".join(report.lines())


def test_a_network_without_noise():
    state = {name: tensor for name, tensor in official().state_dict().items() if ".noise_" not in name}
    config, made, report = to_official(record("pytorch", state, {"synthesis_kwargs": {"use_noise": False}}))
    generator = build(config, made)
    torch.testing.assert_close(
        generator.synthesis(generator.mapping(z()), noise_mode="none"), generator(z()), rtol=0, atol=0
    )
    assert set(report.added.values()) == {"the file has no noise"}


def test_an_average_that_is_missing_is_computed():
    state = layouts.rosinality_generator(0, CHANNELS)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("noises.")}
    config, made, report = to_official(record("rosinality", state))
    expected = layouts.rosinality_w(state, torch.randn(20_000, LATENT)).mean(0)
    torch.testing.assert_close(made["mapping.w_avg"], expected, rtol=0, atol=0.1)
    assert "4,096 samples" in report.added["mapping.w_avg"]
    assert "drawn anew" in report.added["synthesis.b32.conv1.noise_const"]
    again = to_official(record("rosinality", state))[1]
    assert all(torch.equal(again[name], made[name]) for name in made)


def test_settings_that_get_lost_are_reported():
    config = {"synthesis_kwargs": {"conv_clamp": 256, "num_fp16_res": 4}}
    made, _, report = to_official(record("pytorch", official().state_dict(), config))
    assert set(report.dropped) == {"num_fp16_res"} and made["args"]["conv_clamp"] == 256
    judge = layouts.tensorflow_discriminator(0, CHANNELS)
    made, state, _ = to_official(record("tensorflow", judge, {"mbstd_group_size": 8}))
    assert made["args"]["mbstd_group_size"] == 8
    _, _, report = to_rosinality(made, state)
    assert "here they are 8" in report.dropped["mbstd_group_size"]


def test_filters_of_the_file_are_used():
    state = layouts.tensorflow_generator(2, CHANNELS)
    _, made, _ = to_official(record("tensorflow", state, {"resample_kernel": [1, 1, 1, 1]}))
    assert torch.equal(made["synthesis.b8.conv0.resample_filter"], torch.full((4, 4), 1 / 16))


# ---------------------------------------------------------------- one class of a conditional network


def test_a_conditional_network_as_that_of_one_class():
    conditional = official(3)
    config, state = for_label({"kind": "generator", "args": conditional.config}, conditional.state_dict(), 2)
    c = torch.eye(3)[2:].expand(3, -1)
    plain = build(config, state)
    torch.testing.assert_close(plain(z()), conditional(z(), c), **CLOSE)
    assert plain.c_dim == 0 and not torch.allclose(plain(z()), conditional(z(), torch.eye(3)[:1].expand(3, -1)))
    torch.testing.assert_close(plain.mapping.w_avg, plain.mapping(torch.randn(20_000, LATENT))[:, 0].mean(0), rtol=0,
                               atol=0.1)  # fmt: skip
    torch.manual_seed(1)
    judge = Discriminator(3, 32, channel_base=256, channel_max=24).eval().requires_grad_(False)
    config, state = for_label({"kind": "discriminator", "args": judge.config}, judge.state_dict(), 2)
    torch.testing.assert_close(build(config, state)(images()), judge(images(), c), **CLOSE)
    assert not any(name.startswith("mapping.") for name in state)
    with pytest.raises(InputError, match="0 to 2"):
        for_label({"kind": "generator", "args": conditional.config}, conditional.state_dict(), 3)


# ---------------------------------------------------------------- refusals


def refused(layout: str, state: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> str:
    with pytest.raises(InputError) as error:
        to_official(record(layout, state, config))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_variants_that_would_paint_something_else_are_refused():
    ours, theirs = official().state_dict(), layouts.tensorflow_generator(0, CHANNELS)
    assert "'orig'" in refused("pytorch", {n: t for n, t in ours.items() if "b8.torgb" not in n})
    assert "residual generator" in refused("pytorch", {**ours, "synthesis.b8.skip.weight": torch.zeros(1)})
    assert "residual generator" in refused("tensorflow", {**theirs, "G_synthesis/8x8/Skip/weight": torch.zeros(1)})
    assert "'orig'" in refused("tensorflow", {**theirs, "G_synthesis/ToRGB_lod0/weight": torch.zeros(1)})
    assert "class labels" in refused("tensorflow", {**theirs, "G_mapping/LabelConcat/weight": torch.zeros(3, 12)})
    assert "activation 'relu'" in refused("pytorch", ours, {"synthesis_kwargs": {"activation": "relu"}})
    assert "architecture 'resnet'" in refused("tensorflow", theirs, {"architecture": "resnet"})
    assert "normalize_latents False" in refused("tensorflow", theirs, {"normalize_latents": False})
    for taps in ([1, 2, 1], [1, -1, 1, -1], "1331", ["a"] * 4):
        assert "four taps" in refused("tensorflow", theirs, {"resample_kernel": taps})
    assert "damaged" in refused("pytorch", ours, {"mapping_kwargs": {"lr_multiplier": [0.01]}})
    judge = Discriminator(0, 32, channel_base=256, channel_max=24).state_dict()
    assert "mbstd_group_size is 0" in refused("pytorch", judge, {"epilogue_kwargs": {"mbstd_group_size": 0}})
    assert len(refused("pytorch", ours, {"synthesis_kwargs": {"activation": "x\n" * 10_000}})) < 200
    assert "twice" in refused("tensorflow", {**theirs, "Gs/dlatent_avg": theirs["dlatent_avg"]})
    judge = layouts.tensorflow_discriminator(0, CHANNELS)
    assert "'skip'" in refused("tensorflow", {**judge, "8x8/FromRGB/weight": torch.zeros(1, 1, 3, 24)})
    assert "'orig'" in refused("tensorflow", {n: t for n, t in judge.items() if "Skip" not in n})


def test_incomplete_and_foreign_networks_are_refused():
    state = layouts.rosinality_generator(0, CHANNELS)
    assert "neither a generator nor a discriminator" in refused("plain", {"weight": torch.zeros(3)})
    assert "mapping.fc0.bias" in refused("rosinality", {n: t for n, t in state.items() if n != "style.1.bias"})
    assert "extra.weight" in refused("rosinality", {**state, "extra.weight": torch.zeros(1)})
    assert "conv1.conv.weight has the shape" in refused("rosinality", {**state, "input.input": torch.zeros(1, 9, 4, 4),
                                                        "conv1.conv.weight": torch.zeros(())})  # fmt: skip
    wrong = refused("rosinality", {**state, "convs.0.activate.bias": torch.zeros(7)})
    assert re.search(r"synthesis.b8.conv0.bias .* 7 instead of 24", wrong)
    assert "follow no rule" in refused("rosinality", layouts.rosinality_generator(0, [8, 24, 8]))


@pytest.mark.parametrize(
    "name", ["noise999999999", "G_synthesis/99999x99999/Conv1/weight", "noise99", "G_mapping/Dense99/weight"]
)
def test_absurd_names_cost_nothing(name):
    refused("tensorflow", {**layouts.tensorflow_generator(0, [8, 8]), name: torch.zeros(1, 1, 1, 1)})
