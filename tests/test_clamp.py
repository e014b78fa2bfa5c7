"""`conv_clamp`: the limit that official networks keep on what every convolution gives, on every path there is.

The limit here is so low that every layer runs into it: a path that leaves it out of any layer paints something else.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import layouts
import pytest
import torch
import torch.nn as nn
from click.testing import CliRunner
from official import OfficialSynthesis
from official_pickles import dumps, persistent
from safetensors import safe_open
from test_conversion import CHANNELS, CLOSE, build, images, record, z
from test_export import needs_onnx, run
from test_inference import close, make, need_library, some_ws

from sis_rearrange import inference, ops
from sis_rearrange.cli import main
from sis_rearrange.conversion import to_official, to_rosinality
from sis_rearrange.errors import InputError
from sis_rearrange.export import TOLERANCE, export_onnx
from sis_rearrange.features import SplitGenerator
from sis_rearrange.gpu_synthesis import reduced_synthesis
from sis_rearrange.inference import SynthesisGraph, accelerate
from sis_rearrange.loading import load_discriminator, load_generator
from sis_rearrange.native_synthesis import NativeSynthesis
from sis_rearrange.ops import winograd
from sis_rearrange.pack import GENERATOR, load_pack, write_component
from sis_rearrange.stylegan2 import Discriminator, Generator, SynthesisLayer, set_impl
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.weights import decode_networks, read_networks

LIMIT = 0.3


def clamps(network: nn.Module) -> dict[str, float | None]:
    return {name: part.conv_clamp for name, part in network.named_modules() if hasattr(part, "conv_clamp")}


def stronger(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A discriminator's convolutions with four times the weights: the limit keeps what reaches the last ones small."""
    return {name: 4 * tensor if tensor.ndim == 4 else tensor for name, tensor in state.items()}


def judge(conv_clamp: float | None = LIMIT) -> Discriminator:
    torch.manual_seed(5)
    made = Discriminator(0, 32, channel_base=512, channel_max=32, conv_clamp=conv_clamp).eval().requires_grad_(False)
    made.load_state_dict(stronger(made.state_dict()))
    return made


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of its own for graphs; the native libraries are built, where they must be, in the tests' common one."""
    ops.backend(), winograd.backend()
    monkeypatch.setenv("SIS_CACHE", str(tmp_path / "cache"))


# ---------------------------------------------------------------- the arithmetic


def test_the_pictures_of_another_program():
    state = layouts.tensorflow_generator(2, CHANNELS)
    expected = layouts.tensorflow_picture(state, z(), 1.0, clamp=LIMIT)
    config, made, _ = to_official(record("tensorflow", state, {"conv_clamp": LIMIT}))
    torch.testing.assert_close(build(config, made)(z()), expected, **CLOSE)
    assert (layouts.tensorflow_picture(state, z(), 1.0) - expected).abs().max() > 0.5


def test_the_scores_of_another_program():
    state = stronger(layouts.tensorflow_discriminator(3, CHANNELS))
    expected = layouts.tensorflow_scores(state, images(), clamp=LIMIT)
    config, made, _ = to_official(record("tensorflow", state, {"conv_clamp": LIMIT}))
    torch.testing.assert_close(build(config, made)(images()), expected, rtol=0, atol=2e-5)
    assert (layouts.tensorflow_scores(state, images()) - expected).abs().max() > 0.05


def test_every_layer_runs_into_the_limit():
    """So that the other tests of this file would notice if it were missing from any of them."""
    generator, discriminator = make(conv_clamp=LIMIT), judge()
    names = [f"synthesis.b{r}.{part}" for r in (4, 8, 16, 32) for part in ("conv0", "conv1", "torgb")][1:]
    assert clamps(generator) == dict.fromkeys(names, LIMIT)
    inputs = {generator: torch.randn(2, 16), discriminator: images()}
    for network, x in inputs.items():
        before = network(x)
        for name, limit in clamps(network).items():
            assert (limit is None) == name.endswith("skip"), name
            part = network.get_submodule(name)
            part.conv_clamp = None
            change = (network(x) - before).abs().max() / before.abs().max()
            assert name.endswith("skip") or change > 1e-3, name
            part.conv_clamp = limit


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("up", [1, 2])
def test_native_and_reference_layers_agree_with_gradients_of_first_and_second_order(batch, up):
    torch.manual_seed(4)
    layer = SynthesisLayer(32, 48, 16, 32, up=up, conv_clamp=LIMIT)
    inputs = torch.randn(batch, 32, 32 // up, 32 // up), torch.randn(batch, 16)
    results = []
    for impl in ("auto", "ref"):
        set_impl(layer, impl)
        x, w = (t.clone().requires_grad_() for t in inputs)
        y = layer(x, w, "const")
        gradients = torch.autograd.grad((y**2).mean(), [w, *layer.parameters()], create_graph=True)
        again = torch.autograd.grad(sum(g.square().mean() for g in gradients), [x, w])
        results.append([y, *gradients, *again])
    assert (results[0][0].abs() == torch.tensor(LIMIT)).float().mean() > 0.2
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max().clamp_min(1e-6)


@pytest.mark.parametrize("form", [SynthesisGraph, NativeSynthesis, OfficialSynthesis], ids=lambda form: form.__name__)
def test_every_form_of_the_synthesis_paints_the_same(form):
    if form is NativeSynthesis:
        need_library()
    generator = make(conv_clamp=LIMIT)
    ws = some_ws(generator)
    wanted = generator.synthesis(ws)
    assert close(form(generator)(ws), wanted) and not close(make().synthesis(ws), wanted)
    if form is not OfficialSynthesis:
        split = SplitGenerator(generator, 8)
        assert close(form(generator, 16)(*split.g1(ws), ws), wanted)


@pytest.mark.parametrize("path", ["baseline", "avx2", "avx512"])
def test_every_code_path_of_the_native_layers(path):
    need_library()
    library = winograd.backend().library
    before = library.sis_winograd_path()
    if not library.sis_winograd_choose_path(path.encode()):
        pytest.skip(f"this CPU has no {path}")
    try:
        generator = make(conv_clamp=LIMIT)
        ws = some_ws(generator)
        assert close(NativeSynthesis(generator)(ws), generator.synthesis(ws))
    finally:
        library.sis_winograd_choose_path(before)


@pytest.mark.parametrize("backend", ["torch", "openvino", "native"])
def test_every_backend_paints_the_same_and_graphs_of_other_limits_are_not_taken(backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    if backend == "native":
        need_library()
    for limit in (None, LIMIT, 2 * LIMIT):  # the same weights each time
        generator = make(conv_clamp=limit)
        ws = some_ws(generator)
        wanted = generator.synthesis(ws)
        with torch.no_grad():
            assert close(accelerate(generator, backend).synthesis(ws), wanted)
    assert len({inference._key(make(conv_clamp=limit)) for limit in (None, LIMIT, 2 * LIMIT)}) == 3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
def test_reduced_precision(dtype, tolerance):
    generator = make(conv_clamp=LIMIT)
    ws = some_ws(generator)
    found, wanted = reduced_synthesis(generator, dtype)(ws), generator.synthesis(ws)
    assert (found - wanted).abs().max() < tolerance * (wanted.max() - wanted.min())


def test_a_limit_keeps_float16_from_overflowing():
    """What it is there for: activations of 1e5, whose pictures are nothing but infinite and not-a-number without it."""
    pictures = {}
    for limit in (None, 256.0):
        generator = make(noise=0, conv_clamp=limit)
        generator.synthesis.b32.conv1.bias.fill_(1e5)
        pictures[limit] = reduced_synthesis(generator, torch.float16)(some_ws(generator))
    assert not pictures[None].isfinite().all() and pictures[256.0].isfinite().all()


# ---------------------------------------------------------------- packs and exports


@pytest.fixture(scope="module")
def clamped_pack(tiny_pack_path: Path, tmp_path_factory) -> Path:
    """The tiny pack with a limit in its generator's configuration."""
    import shutil

    path = tmp_path_factory.mktemp("clamped") / "tiny"
    shutil.copytree(tiny_pack_path, path)
    generator = load_pack(path).generator()
    config = {"kind": "generator", "args": generator.config | {"conv_clamp": LIMIT}}
    write_component(path, GENERATOR, generator.state_dict(), config, {"command": "pytest", "seed": 0, "minutes": 0.01})
    return path


def test_packs_keep_it_and_old_ones_have_none(clamped_pack, tiny_pack):
    generator = load_pack(clamped_pack).generator()
    assert generator.config["conv_clamp"] == LIMIT and set(clamps(generator).values()) == {LIMIT}
    old = {key: value for key, value in tiny_pack.generator().config.items() if key != "conv_clamp"}
    assert set(clamps(Generator(**old)).values()) == {None}
    ws = some_ws(generator)
    assert not close(generator.synthesis(ws), tiny_pack.generator().synthesis(ws))


def test_whole_graphs_paint_the_same(clamped_pack):
    pytest.importorskip("openvino")
    found = []
    for backend in ("torch", "openvino"):
        synth = Synthesizer(load_pack(clamped_pack), device="cpu", backend=backend)
        found.append(synth.rearrange(synth.read(4, "exemplar").labels, synth.set_source(seed=1)).images)
    assert close(found[1], found[0])


@needs_onnx
def test_exported_files_paint_the_same(clamped_pack, tmp_path):
    pack = load_pack(clamped_pack)
    for what in ("synthesis", "rearrange"):
        assert export_onnx(pack, tmp_path / f"{what}.onnx", what).difference < TOLERANCE
    ws = some_ws(pack.generator())
    (image,) = run(tmp_path / "synthesis.onnx", ws=ws)
    assert (image - pack.generator().synthesis(ws)).abs().max() < 1e-4


# ---------------------------------------------------------------- files


def official_file(path: Path, **settings) -> Path:
    networks = {"G_ema": make(conv_clamp=None), "D": judge(None)}
    kinds = {"G_ema": "Generator", "D": "Discriminator"}
    made = {name: persistent(kinds[name], network.state_dict(), **settings) for name, network in networks.items()}
    path.write_bytes(dumps(made))
    return path


ADA = {"synthesis_kwargs": {"conv_clamp": LIMIT}}


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"kwargs": ADA}, LIMIT),  # arguments alone
        ({"kwargs": ADA, "clamps": {"": LIMIT}}, LIMIT),
        ({"clamps": {"": 256}}, 256.0),  # stylegan3: a default that its arguments do not show
        ({"kwargs": ADA, "clamps": {"": None}}, None),  # what the layers do counts
        ({"kwargs": {"conv_clamp": None, "num_fp16_res": 0}, "clamps": {"": None}}, None),  # stylegan3, --fp32
        ({}, None),
    ],
)
def test_official_files(tmp_path, settings, limit):
    path = official_file(tmp_path / "a.pkl", **settings)
    assert load_generator(path, backend="torch").config["conv_clamp"] == limit
    assert set(clamps(load_generator(path, backend="torch")).values()) == {limit}
    if "clamps" in settings:  # stylegan2-ada-pytorch's arguments above are those of a generator
        found = clamps(load_discriminator(path))
        assert {value for name, value in found.items() if not name.endswith("skip")} == {limit}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clamps": {"": 256, "synthesis.b8.conv0": None, "b8.conv0": 8}}, "different limits on activations, [256, "),
        ({"kwargs": {"conv_clamp": -1}}, "conv_clamp is -1"),
        ({"kwargs": {"conv_clamp": True}}, "conv_clamp is True"),
        ({"kwargs": {"conv_clamp": 1e40}}, "conv_clamp is 1e+40"),
        ({"kwargs": {"conv_clamp": "256\n"}}, "conv_clamp is '256"),
        ({"kwargs": {"conv_clamp": [1] * 99}}, "different limits"),
    ],
)
def test_limits_that_make_no_sense(tmp_path, settings, words):
    path = official_file(tmp_path / "a.pkl", **settings)
    for load in (load_generator, load_discriminator):
        with pytest.raises(InputError) as error:
            load(path)
        assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_very_many_limits_are_not_compared_with_one_another(tmp_path):
    """Hundreds of values, all different: a list of a few is all that is wanted."""
    state = {f"l{n}.conv1.weight": torch.zeros(1) for n in range(300)}
    network = persistent("Generator", state, clamps={"": 1.0, **{f"l{n}.conv1": float(n) for n in range(300)}})
    assert decode_networks(dumps({"G": network}), "x")["G"].config["conv_clamp"] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("conv_clamp", [0, -1.0, math.inf, math.nan, True, "256", 10**400])
def test_networks_refuse_them_too(conv_clamp):
    for make_network in (
        lambda: Generator(8, 0, 8, 8, channel_base=64, channel_max=8, conv_clamp=conv_clamp),
        lambda: Discriminator(0, 8, channel_base=64, channel_max=8, conv_clamp=conv_clamp),
    ):
        with pytest.raises(ValueError, match="must be None or a positive number"):
            make_network()


# ---------------------------------------------------------------- conversion


def convert(*args: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["convert", *map(str, args), "--licence", "CC0"])
    return result.exit_code, result.output


def test_conversions_keep_it(tmp_path):
    source = official_file(tmp_path / "a.pkl", clamps={"": LIMIT})
    ws = some_ws(make())
    wanted = make(conv_clamp=LIMIT).synthesis(ws)
    for chain in (["b.safetensors"], ["c.pt", "official"], ["d.safetensors", "official"]):
        assert convert(source, tmp_path / chain[0], *(["--layout", chain[1]] if chain[1:] else []))[0] == 0
        source = tmp_path / chain[0] if chain[0] == "c.pt" else source
        found = load_generator(tmp_path / chain[0], backend="torch")
        torch.testing.assert_close(found.synthesis(ws), wanted, **CLOSE)
    torch.testing.assert_close(load_discriminator(tmp_path / "c.pt")(images()), judge()(images()), **CLOSE)
    with safe_open(tmp_path / "d.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["args"]["conv_clamp"] == LIMIT


def test_rosinality_has_no_place_for_it(tmp_path):
    source = official_file(tmp_path / "a.pkl", clamps={"": LIMIT})
    code, text = convert(source, tmp_path / "r.pt", "--layout", "rosinality")
    assert code == 2 and "without its limit of 0.3 on activations" in text and "the picture changes by" in text
    assert not (tmp_path / "r.pt").exists()


@pytest.mark.parametrize("name", ["r.pt", "r.safetensors"])
def test_where_it_does_not_matter_rosinality_goes_without(tmp_path, name):
    source = official_file(tmp_path / "a.pkl", clamps={"": 1e8})
    code, text = convert(source, tmp_path / name, "--layout", "rosinality")
    assert code == 0 and "dropped conv_clamp: its code has no limit on activations, which is 1e+08 here" in text
    assert "without its limit of 1e+08 on activations the check comes out the same" in text
    assert load_generator(tmp_path / name, backend="torch").config["conv_clamp"] is None


def test_the_report_names_it():
    config = {"kind": "generator", "args": make(conv_clamp=LIMIT).config | {"z_dim": 16}}
    _, _, report = to_rosinality(config, make().state_dict())
    assert "conv_clamp" in report.dropped
    _, _, report = to_rosinality({**config, "args": make().config}, make().state_dict())
    assert "conv_clamp" not in report.dropped


def test_half_precision_layers_are_still_reported(tmp_path):
    records = read_networks(official_file(tmp_path / "a.pkl", kwargs=ADA | {"num_fp16_res": 4}))
    config, _, report = to_official(records["G_ema"])
    assert config["args"]["conv_clamp"] == LIMIT and list(report.dropped) == ["num_fp16_res"]


def test_copies_keep_it():
    assert clamps(copy.deepcopy(make(conv_clamp=LIMIT))) == clamps(make(conv_clamp=LIMIT))
