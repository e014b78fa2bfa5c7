"""The layouts of NVIDIA's snapshots: persistent PyTorch objects, and the TensorFlow networks before them.

A snapshot holds live objects rather than tensors. Here they are inert records with the state they were saved with, in
which the tensors are looked up the way ``state_dict`` would name them. The source code that the files carry for their
classes is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sis_rearrange.weights.inert import RawObject
from sis_rearrange.weights.reading import MAX_NAME, Damaged, Reading, shown
from sis_rearrange.weights.values import State, as_state, is_tensor, plain_entries

_MAX_DEPTH = 12  # of modules in modules; the official networks have four
_MAX_MODULES = 20_000
# Constructor arguments by position, for files that gave them so.
_POSITIONS = {
    "Generator": ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"),
    "Discriminator": ("c_dim", "img_resolution", "img_channels"),
}
_ATTRIBUTES = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
_CLAMP = "conv_clamp"
_TF_NAMES = ("G", "D", "Gs")
_STYLEGAN3 = re.compile(r"(^|\.)synthesis\.(input\.(freqs|phases|transform|affine\.)|L\d+_\d+_\d+\.)")
_STYLEGAN1 = re.compile(r"StyleMod|style_mod|(^|\.)progression\.\d+\.|(^|\.)g_synthesis\.blocks\.")


@dataclass(frozen=True)
class NetworkRecord:
    """One network of a file, under the names the file uses; nothing of it is converted yet."""

    layout: str  # "pytorch", "tensorflow", "rosinality", "plain" or "safetensors"
    name: str  # "G", "D", "G_ema", "Gs", "g_ema"...; "" where the file has one network without a name
    class_name: str | None  # as the file names it: "Generator", "G_main"; None where it does not
    config: dict[str, Any]  # JSON-able constructor arguments found in the file
    state: State = field(repr=False)  # contiguous CPU tensors, floating ones float32
    extras: dict[str, Any] = field(default_factory=dict, repr=False)  # JSON-able values and tensors beside it


def check_generation(names: Iterable[str], reading: Reading) -> None:
    """``InputError`` where tensors under these names belong to a StyleGAN that is not the second."""
    for name in names:
        reading.spend_operations()
        name = name[:MAX_NAME]
        which = "StyleGAN3" if _STYLEGAN3.search(name) else "StyleGAN1" if _STYLEGAN1.search(name) else None
        if which:
            raise reading.refused(
                f"is a {which} network (it has {shown(name)}), which has another architecture; give a StyleGAN2 one"
            )


def is_persistent(value: object) -> bool:
    """Whether a value out of a file is an official PyTorch object that holds tensors."""
    return type(value) is RawObject and value.kind == "persistent" and "_parameters" in (value.state or {})


def is_tf_network(value: object) -> bool:
    """Whether a value out of a file is an official TensorFlow network."""
    return type(value) is RawObject and value.kind == "network"


def pytorch_networks(payload: Mapping[Any, Any], reading: Reading) -> dict[str, NetworkRecord]:
    """The networks of a snapshot ``{"G", "D", "G_ema", "training_set_kwargs", "augment_pipe", ...}``.

    The augmentation pipe's tensors and every JSON-able entry are ``extras`` of each.
    """
    extras = plain_entries(dict(payload), reading)
    found: dict[str, RawObject] = {}
    for name, value in payload.items():
        if not is_persistent(value):
            continue
        if value.class_name == "AugmentPipe" or name == "augment_pipe":
            extras["augment_pipe"] = _module_state(value, reading)
        else:
            found[shown(name)] = value
    records = {}
    for name, value in found.items():
        clamps: dict[str, object] = {}
        state = _module_state(value, reading, clamps)
        config = _constructor_arguments(value, reading) | _noted_clamp(clamps, reading)
        records[name] = NetworkRecord("pytorch", name, value.class_name, config, state, extras)
    return records


def tf_networks(networks: list[Any], reading: Reading) -> dict[str, NetworkRecord]:
    """The networks of a snapshot ``(G, D, Gs)``, or of a file with one of them.

    Tensors keep TensorFlow's shapes and get the names of their variables, those of components after the component's
    own: ``"G_mapping/Dense0/weight"``. ``extras["components"]`` has each component's class name and configuration.
    """
    records = {}
    for number, network in enumerate(networks):
        own = network.state or {}
        if _version(own) in (2, 3):  # the networks of StyleGAN2 begin with version 4
            raise reading.refused(
                f"is a StyleGAN1 network (TensorFlow format version {own['version']}), which has another architecture; "
                "give a StyleGAN2 one"
            )
        name = _TF_NAMES[number] if len(networks) == 3 else shown(own.get("name", f"network{number}"))
        variables: dict[str, Any] = {}
        components: dict[str, Any] = {}
        _tf_variables(network, "", variables, components, reading)
        check_generation(variables, reading)
        extras = {"name": shown(own.get("name")), "version": _version(own), "components": components}
        config = plain_entries(own.get("static_kwargs"), reading)
        records[name] = NetworkRecord("tensorflow", name, _function(own), config, as_state(variables, reading), extras)
    return records


def _constructor_arguments(network: RawObject, reading: Reading) -> dict[str, Any]:
    state = network.state or {}
    config = plain_entries(state.get("_init_kwargs", state.get("init_kwargs")), reading)
    args = state.get("_init_args", state.get("init_args"))
    if isinstance(args, (tuple, list)):
        names = _POSITIONS.get(network.class_name, ())
        config = {**plain_entries(dict(zip(names, args, strict=False)), reading), **config}
    # what a network has noted of itself stands in for arguments that the file does not have
    noted = plain_entries({name: state[name] for name in _ATTRIBUTES if name in state}, reading)
    return {**noted, **config}


def _noted_clamp(clamps: dict[str, object], reading: Reading) -> dict[str, Any]:
    """The ``conv_clamp`` that the layers have noted: the value of all, or a list where they differ.

    The constructor's arguments do not tell: it is 256 where stylegan3's are silent, and none in stylegan2-ada-pytorch.
    """
    different: list[Any] = []
    for value in plain_entries({_CLAMP: list(clamps.values())}, reading).get(_CLAMP, []):
        if value not in different and len(different) < 3:
            different.append(value)
    return {_CLAMP: different[0] if len(different) == 1 else different} if different else {}


def _module_state(network: RawObject, reading: Reading, clamps: dict[str, object] | None = None) -> State:
    """What ``state_dict()`` would give; ``clamps`` takes what its layers have noted of theirs, by their names."""
    found: dict[str, Any] = {}
    modules = [(network, "", 0)]
    visited = 0
    try:
        while modules:
            module, prefix, depth = modules.pop()
            visited += 1
            reading.spend_operations()
            if depth > _MAX_DEPTH or visited > _MAX_MODULES or len(prefix) > MAX_NAME:
                raise Damaged("its modules are nested too deeply")
            _own_tensors(module, prefix, found, reading)
            if clamps is not None and _CLAMP in (module.state or {}) and not prefix.endswith(".skip."):
                clamps[prefix] = (module.state or {})[_CLAMP]  # the skip connections of D never have one
            children = _entries(module, "_modules", reading)
            for name, child in reversed(list(children.items())):
                if child is not None and not is_persistent(child):
                    raise Damaged(f"module {shown(prefix + name)} has no state")
                if child is not None:
                    modules.append((child, f"{prefix}{name}.", depth + 1))
            if len(modules) > _MAX_MODULES:
                raise Damaged("it has too many modules")
    except Damaged as error:
        raise reading.damaged(error) from error
    check_generation(found, reading)
    return as_state(found, reading)


def _own_tensors(module: RawObject, prefix: str, found: dict[str, Any], reading: Reading) -> None:
    left_out = (module.state or {}).get("_non_persistent_buffers_set")
    left_out = left_out if type(left_out) is set else set()
    for kind in ("_parameters", "_buffers"):
        for name, value in _entries(module, kind, reading).items():
            if value is None or (kind == "_buffers" and name in left_out):
                continue
            if not is_tensor(value):
                raise Damaged(f"{shown(prefix + name)} is no tensor")
            found[prefix + name] = value


def _entries(module: RawObject, kind: str, reading: Reading) -> dict[str, Any]:
    entries = (module.state or {}).get(kind)
    reading.spend_operations(len(entries) if isinstance(entries, dict) else 0)
    if not isinstance(entries, dict) or any(
        type(name) is not str or not name or len(name) > MAX_NAME for name in entries
    ):
        raise Damaged(f"a module has no sensible {kind}")
    return entries


def _tf_variables(
    network: RawObject, prefix: str, variables: dict[str, Any], components: dict[str, Any], reading: Reading
) -> None:
    """Collect the variables of a network and of its components, which have none of their own."""
    own = network.state or {}
    listed, parts = own.get("variables"), own.get("components", {})
    if not isinstance(listed, (list, tuple)) or type(parts) is not dict or len(parts) > 16:
        raise reading.damaged("a network has no list of variables")
    reading.spend_operations(len(listed))
    for entry in listed:
        if type(entry) not in (tuple, list) or len(entry) != 2 or type(entry[0]) is not str or len(entry[0]) > MAX_NAME:
            raise reading.damaged("a variable has no name")
        variables[prefix + entry[0]] = entry[1]
    for key, part in parts.items():
        if prefix or not is_tf_network(part):
            raise reading.damaged("a component is no network, or has components itself")
        inner = part.state or {}
        label = shown(inner.get("name", key))
        components[shown(key)] = {
            "name": label,
            "class_name": _function(inner),
            "config": plain_entries(inner.get("static_kwargs"), reading),
        }
        _tf_variables(part, f"{label}/", variables, components, reading)


def _function(state: Mapping[Any, Any]) -> str | None:
    name = state.get("build_func_name")
    return shown(name) if type(name) is str else None


def _version(state: Mapping[Any, Any]) -> int | None:
    version = state.get("version")
    return version if type(version) is int else None
