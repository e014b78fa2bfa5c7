from __future__ import annotations

import copy

import pytest
import torch

from sis_rearrange import native_synthesis, ops
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator
from sis_rearrange.inference import SynthesisGraph, accelerate, resolve
from sis_rearrange.native_synthesis import NativeSynthesis
from sis_rearrange.ops import winograd
from sis_rearrange.stylegan2 import Generator


def need_library() -> None:
    if winograd.backend().library is None:
        pytest.skip(winograd.backend().why)


def make(
    resolution: int = 32,
    channel_base: int = 512,
    c_dim: int = 0,
    noise: float = 0.3,
    conv_clamp: float | None = None,
) -> Generator:
    """Random weights, 16 or 32 channels; no bias, no noise strength and no w_avg is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = dict(channel_base=channel_base, channel_max=32, num_layers=2)
        generator = Generator(16, c_dim, 16, resolution, conv_clamp=conv_clamp, **sizes)
        for name, x in generator.named_parameters():
            if name.endswith("noise_strength"):
                x.data.fill_(noise)
            elif name.endswith("bias"):
                x.data.add_(0.2 * torch.randn_like(x))
        generator.mapping.w_avg.normal_()
    return generator.eval().requires_grad_(False)


def some_ws(generator: Generator, n: int = 2) -> torch.Tensor:
    """Rows of ws that all differ, so that a wrong row shows."""
    return torch.randn(n, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(3))


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    return bool((found - wanted).abs().max() < 1e-5 * (wanted.max() - wanted.min()))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of its own for graphs; the native libraries are built, where they must be, in the tests' common one."""
    ops.backend(), winograd.backend()
    monkeypatch.setenv("SIS_CACHE", str(tmp_path))


@pytest.fixture(params=[SynthesisGraph, NativeSynthesis])
def form(request):
    if request.param is NativeSynthesis:
        need_library()
    return request.param


# ---------------------------------------------------------------- forms


@pytest.mark.parametrize("resolution", [8, 16, 64])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_forms_give_the_same_picture(form, resolution, noise):
    generator = make(resolution, 16 * resolution, noise=noise)
    ws = some_ws(generator)
    assert close(form(generator)(ws), generator.synthesis(ws))


@pytest.mark.parametrize("tap", [4, 8, 16])
def test_forms_begin_behind_a_tap(form, tap):
    generator = make()
    split, ws = SplitGenerator(generator, tap), some_ws(generator)
    feature_map, skip = split.g1(ws)
    other = some_ws(generator).flip(0)
    assert close(form(generator, 2 * tap)(feature_map, skip, other), split.g2(feature_map, skip, other))


def test_forms_keep_their_weights(form):
    generator = make()
    ws = some_ws(generator)
    run, wanted = form(generator), generator.synthesis(ws)
    for x in generator.synthesis.parameters():
        x.data.add_(0.5)
    assert close(run(ws), wanted) and not close(generator.synthesis(ws), wanted)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the tracer's, of itself
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_graph_traces():
    generator = make()
    ws = some_ws(generator, 1)
    with torch.no_grad():
        traced = torch.jit.trace(SynthesisGraph(generator), (ws,), check_trace=False)
    assert close(traced(2 * ws), generator.synthesis(2 * ws))


def test_a_graph_begins_at_a_block():
    with pytest.raises(ValueError, match=r"first_resolution 12.*\[8, 16, 32\]"):
        SynthesisGraph(make(), first_resolution=12)


def test_what_the_native_layers_do_not_take():
    need_library()
    assert native_synthesis.lacking(make()) == ""
    assert "8 channels" in native_synthesis.lacking(make(channel_base=256))
    generator = make()
    generator.synthesis.b16.conv0.resample_filter.mul_(2)
    assert "filter of b16" in native_synthesis.lacking(generator)
    assert "float32" in native_synthesis.lacking(make().double())
    with pytest.raises(ValueError, match="8 channels"):
        NativeSynthesis(make(channel_base=256))


def test_no_pictures():
    need_library()
    generator = make()
    assert NativeSynthesis(generator)(some_ws(generator, 0)).shape == (0, 3, 32, 32)


# ---------------------------------------------------------------- accelerate


@pytest.mark.parametrize("backend", ["torch", "auto", "openvino", "native"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_every_backend_paints_the_same_picture(backend, c_dim):
    if backend == "openvino":
        pytest.importorskip("openvino")
    if backend == "native":
        need_library()
    generator = make(c_dim=c_dim)
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    c = torch.eye(3) if c_dim else None
    wanted = generator(z, c, truncation_psi=0.7)
    assert accelerate(generator, backend) is generator
    with torch.no_grad():
        assert close(generator(z, c, truncation_psi=0.7), wanted)
        one = generator(z[:1], None if c is None else c[:1], truncation_psi=0.7)
        assert close(one, wanted[:1]) and not one.is_inference()  # so that a loss may go on from it
    with torch.inference_mode():
        assert close(generator(z, c, truncation_psi=0.7), wanted)
    assert (generator.synthesis.fast is None) == (backend == "torch")


@pytest.fixture
def fast():
    """An accelerated generator and a way to see whether a picture came from the accelerated form."""
    if resolve(make())[0] == "torch":
        pytest.skip("neither native layers nor OpenVINO")
    generator = accelerate(make())
    ws = some_ws(generator)
    with torch.no_grad():
        generator.synthesis(ws)
    calls = []
    run = generator.synthesis.fast._run
    generator.synthesis.fast._run = lambda ws: calls.append(1) or run(ws)
    return generator, ws, calls


def test_only_where_gradients_are_off(fast):
    generator, ws, calls = fast
    ws = ws.clone().requires_grad_()
    generator.synthesis(ws).sum().backward()
    assert calls == [] and ws.grad is not None
    with torch.no_grad():
        generator.synthesis(ws)
    assert calls == [1]


def test_other_noise_goes_through_the_blocks(fast):
    generator, ws, calls = fast
    plain = make()
    with torch.no_grad():
        assert torch.equal(generator.synthesis(ws, "none"), plain.synthesis(ws, "none"))
        assert torch.equal(generator.synthesis(ws, "random", [1, 2]), plain.synthesis(ws, "random", [1, 2]))
    assert calls == []


def in_place(generator):
    with torch.no_grad():
        generator.synthesis.b16.conv1.weight.add_(0.5)


def through_data(generator):
    generator.synthesis.b16.conv1.weight.data.add_(0.5)


def replaced(generator):
    generator.synthesis.b16.conv1.bias = torch.nn.Parameter(torch.ones(32))


def a_buffer(generator):
    generator.synthesis.b32.conv1.noise_const.neg_()


def loaded(generator):
    state = {name: 0.5 + x for name, x in generator.synthesis.state_dict().items()}
    generator.synthesis.load_state_dict(state)


def a_step(generator):
    generator.requires_grad_(True)
    optimizer = torch.optim.Adam(generator.synthesis.parameters(), lr=0.1)
    generator.synthesis(some_ws(generator)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "change", [in_place, through_data, replaced, a_buffer, loaded, a_step], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("called", [False, True], ids=["before", "after"])
def test_no_stale_pictures(change, called):
    """Whether the weights change before the first picture or after it."""
    if resolve(make())[0] == "torch":
        pytest.skip("neither native layers nor OpenVINO")
    generator = accelerate(make())
    ws = some_ws(generator)
    with torch.no_grad():
        before = generator.synthesis(ws) if called else make().synthesis(ws)
    change(generator)
    plain = make()
    change(plain)
    with torch.no_grad():
        found, wanted = generator.synthesis(ws), plain.synthesis(ws)
        assert torch.equal(found, wanted) and not close(found, before)
        assert generator.synthesis.fast is None
        assert close(accelerate(generator).synthesis(ws), wanted) and generator.synthesis.fast is not None


def test_copies_stand_alone(fast):
    generator, ws, calls = fast
    other = copy.deepcopy(generator)
    through_data(other)
    with torch.no_grad():
        assert not close(other.synthesis(ws), generator.synthesis(ws))
    assert other.synthesis.fast is None and calls == [1]


def test_which_backend(monkeypatch):
    pytest.importorskip("openvino")
    generator = make()
    assert resolve(generator, "torch")[0] == "torch" and resolve(generator, "openvino")[0] == "openvino"
    if winograd.backend().library is not None:
        assert resolve(generator)[0] == resolve(generator, "native")[0] == "native"
    assert resolve(make(channel_base=256))[0] == "openvino"
    monkeypatch.setenv("SIS_NATIVE", "0")
    assert resolve(generator)[0] == "openvino"
    with pytest.raises(InputError, match="'native': .*SIS_NATIVE.*'auto'"):
        accelerate(generator, "native")
    with pytest.raises(InputError, match="unknown backend 'opnvino'; did you mean 'openvino'"):
        accelerate(generator, "opnvino")


def test_other_devices_stay_with_torch():
    generator = make().to("meta")
    assert resolve(generator)[0] == "torch" and accelerate(generator).synthesis.fast is None
