"""StyleGAN2 weights of other programs as official PyTorch state dicts, and back; the same pictures to rounding.

`to_official` takes what `weights.read_networks` found. It goes by the names of the tensors, places every one of them or
says why not, and refuses what our networks cannot do: nothing is left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from sis_rearrange.architecture import discriminator_args, generator_args
from sis_rearrange.conversion import rosinality, tensorflow
from sis_rearrange.conversion.labels import MEAN_SAMPLES, for_label, mean_w
from sis_rearrange.conversion.report import Place, Report
from sis_rearrange.conversion.rosinality import expressible, to_rosinality
from sis_rearrange.conversion.settings import apply_settings, fir_taps, kept_settings, official_settings
from sis_rearrange.errors import InputError
from sis_rearrange.ops import fir_kernel
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.tensors import seeded_normal

if TYPE_CHECKING:
    from sis_rearrange.weights import NetworkRecord

__all__ = ["KINDS", "Report", "expressible", "for_label", "kind_of", "to_official", "to_rosinality"]

State = dict[str, torch.Tensor]
KINDS: dict[str, type[torch.nn.Module]] = {"generator": Generator, "discriminator": Discriminator}

# (layout, kind, pattern that one of the names matches)
_SIGNS = (
    ("pytorch", "generator", r"synthesis\.b4\.const"),
    ("pytorch", "discriminator", r"b4\.fc\.weight"),
    ("rosinality", "generator", r"input\.input"),
    ("rosinality", "discriminator", r"final_conv\.0\.weight"),
    ("tensorflow", "generator", r"(.*/)?4x4/Const/const"),
    ("tensorflow", "discriminator", r"(.*/)?Output/weight"),
)
_FOREIGN = (  # StyleGAN1 and 3 were refused by the reader
    (r"(.*/)?(To|From)RGB_lod\d.*", "has the architecture 'orig' (configurations b to d of StyleGAN2)"),
    (r"synthesis\.b\d+\.skip\.weight|(.*/)?(G_)?synthesis\w*/\d+x\d+/Skip/weight", "has a residual generator"),
    (r"(.*/)?LabelConcat/weight", "has class labels as in stylegan2 before stylegan2-ada"),
)
_OUR_KINDS = "skip generators and residual discriminators of StyleGAN2 (configurations e and f) are read"


def kind_of(names: Iterable[str]) -> tuple[str, str] | None:
    """(layout, "generator" or "discriminator") of a network, from the names of its tensors; None for any other."""
    plain = {_unwrapped(name) for name in names}
    for layout, kind, pattern in _SIGNS:
        if any(re.fullmatch(pattern, name) for name in plain):
            return layout, kind
    return None


def to_official(record: NetworkRecord) -> tuple[dict[str, Any], State, Report]:
    """``({"kind", "args"}, official state dict, report)`` of a network that `weights.read_networks` found.

    The state dict loads into ``KINDS[kind](**args)`` with ``strict=True``. Raises InputError, without the file's name,
    for networks other than StyleGAN2 generators and discriminators and for variants that ours do not cover.
    """
    called = f"network {record.name!r}" if record.name else "the network"
    source = {_unwrapped(name): tensor for name, tensor in record.state.items()}
    for pattern, what in _FOREIGN:
        if any(re.fullmatch(pattern, name) for name in source):
            raise InputError(f"{called} {what}; only {_OUR_KINDS}")
    found = kind_of(source)
    if found is None:
        raise InputError(f"{called} is neither a generator nor a discriminator of a StyleGAN2")
    layout, kind = found
    report = Report(layout)
    state = _placed(source, layout, kind, report)
    given = _settings(record, layout)
    if layout == "rosinality" and kind == "generator" and isinstance(record.extras.get("latent_avg"), torch.Tensor):
        state["mapping.w_avg"] = record.extras["latent_avg"].float().reshape(-1)
        report.place("latent_avg", "mapping.w_avg")
    _check_architecture(kind, state)
    args = generator_args(state) if kind == "generator" else discriminator_args(state)
    args |= kept_settings(kind, given)
    apply_settings(kind, given, state, report)
    _complete(kind, args, state, given, report)
    return {"kind": kind, "args": args}, {name: state[name].contiguous() for name in sorted(state)}, report


def _settings(record: NetworkRecord, layout: str) -> dict[str, Any]:
    """The file's settings under official names."""
    if layout == "pytorch":
        return official_settings(record.config, record.name)
    if layout != "tensorflow":
        return {}  # rosinality's checkpoints hold those of a training
    given: dict[str, Any] = {}
    for part in record.extras.get("components", {}).values():
        given |= tensorflow.settings(part.get("config", {}))
    return given | tensorflow.settings(record.config)


def _unwrapped(name: str) -> str:
    return name.removeprefix("module.")  # what torch's DataParallel puts before every name


def _place(layout: str, kind: str, name: str, resolution: int) -> Place | None:
    if layout == "pytorch":
        return Place(name, lambda x: x)
    if layout == "tensorflow":
        return tensorflow.generator_place(name) if kind == "generator" else tensorflow.discriminator_place(name)
    if kind == "generator":
        return rosinality.generator_place(name)
    return rosinality.discriminator_place(name, resolution)


def _placed(source: Mapping[str, torch.Tensor], layout: str, kind: str, report: Report) -> State:
    """The tensors of a file under official names, in official form."""
    resolution = rosinality.discriminator_resolution(source) if layout == "rosinality" else 0
    state: State = {}
    for name, tensor in source.items():
        place = _place(layout, kind, name, resolution)
        if place is None:
            why = tensorflow.counter(name) if layout == "tensorflow" else None
            if why is None:
                raise InputError(f"its {kind} holds {name}, which a StyleGAN2 of the {layout} layout does not have")
            report.dropped[name] = why
            continue
        if place.name in state:
            raise InputError(f"its {kind} holds {name} twice, under two names")
        try:
            state[place.name] = place.change(tensor)
        except (RuntimeError, IndexError) as error:
            shape = "x".join(map(str, tensor.shape)) or "a single number"
            raise InputError(f"{name} has the shape {shape}, which it cannot have in a StyleGAN2 {kind}") from error
        report.place(name, place.name)
    return state


def _check_architecture(kind: str, state: State) -> None:
    """Raise InputError for the architectures of StyleGAN2 that our networks do not have."""
    blocks = {int(m[1]) for name in state if (m := re.match(r"(?:synthesis\.)?b(\d{1,5})\.", name))}
    if kind == "generator":
        if missing := [r for r in sorted(blocks) if f"synthesis.b{r}.torgb.weight" not in state]:
            raise InputError(f"its generator makes no RGB at {missing[0]}x{missing[0]} ('orig'); only {_OUR_KINDS}")
        return
    if sum(f"b{r}.fromrgb.weight" in state for r in blocks) > 1:
        raise InputError(f"its discriminator reads RGB at several resolutions ('skip'); only {_OUR_KINDS}")
    if not any(f"b{r}.skip.weight" in state for r in blocks):
        raise InputError(f"its discriminator has no residual connections ('orig'); only {_OUR_KINDS}")


def _complete(kind: str, args: Mapping[str, Any], state: State, given: Mapping[str, Any], report: Report) -> None:
    """Fill in what a layout leaves out, and raise InputError unless the state then fits the network exactly."""
    try:
        with torch.device("meta"):  # shapes alone
            expected = {name: tensor.shape for name, tensor in KINDS[kind](**args).state_dict().items()}
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"its shapes do not make a StyleGAN2 {kind} ({error})") from error
    _add_constants(expected, state, given, report)
    averaged = kind == "generator" and "mapping.w_avg" not in state
    if averaged:
        state["mapping.w_avg"] = torch.zeros(args["w_dim"])
    for name in sorted(set(expected) | set(state)):
        if name not in state:
            raise InputError(f"its {kind} has no {name}; the file is incomplete")
        if name not in expected:
            raise InputError(f"its {kind} holds {name}, for which ours has no place")
        if state[name].shape != expected[name]:
            shapes = ("x".join(map(str, shape)) for shape in (state[name].shape, expected[name]))
            raise InputError(f"{name} of its {kind} has the shape {' instead of '.join(shapes)}")
    if averaged:
        state["mapping.w_avg"] = mean_w(args, state)
        report.added["mapping.w_avg"] = f"mean of {MEAN_SAMPLES:,} samples: the file has no average w"


def _add_constants(expected: Mapping[str, torch.Size], state: State, given: Mapping[str, Any], report: Report) -> None:
    """Resampling filters, and noise for a network without: what a layout may leave out."""
    missing = set(expected) - set(state)
    for name in sorted(missing):
        if name.endswith(".resample_filter"):
            state[name] = fir_kernel(fir_taps(given))
        elif name.endswith(".noise_const"):
            strength = name.replace("_const", "_strength")
            silent = strength in missing or not bool(state[strength].any())
            state[name] = torch.zeros(expected[name]) if silent else seeded_normal([0], expected[name])[0]
            report.added[name] = "the file has no noise" if silent else "drawn anew: the file has no fixed noise"
            if strength in missing:
                state[strength] = torch.zeros(expected[strength])
                report.added[strength] = "the file has no noise"
