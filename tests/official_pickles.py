"""Writes weight files in the layouts of the official programs, without those programs.

The classes that official pickles name (``torch_utils.persistence``, ``dnnlib``) are pretended: they stand in
``sys.modules`` while something is pickled and are gone afterwards, so that reading the files cannot lean on them.

    write_pytorch(path, {"G_ema": generator.state_dict()}, {"G_ema": dict(z_dim=..., ...)})
    write_tensorflow(path, {"G": variables, "D": variables, "Gs": variables})
    write_rosinality(path, {"g_ema": state}, latent_avg=tensor)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import pickletools
import re
import struct
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

State = Mapping[str, torch.Tensor]
SOURCE = '"""Source code of the networks, as official snapshots carry it."""\nraise SystemExit("this must never run")\n'
_BUFFERS = ("resample_filter", "noise_const", "w_avg", "num_batches_tracked", "Hz_geom", "Hz_fbank", "p")


def _reconstruct_persistent_obj(meta: object) -> object:
    raise AssertionError("a persistent object was reconstructed")


class EasyDict(dict):
    """As dnnlib has it: a dictionary whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Network:
    """A TensorFlow network: all that is left of it is the state it is saved with."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __getstate__(self) -> dict[str, Any]:
        return self.state


_PRETENDED: dict[str, Any] = {
    "torch_utils.persistence": _reconstruct_persistent_obj,
    "dnnlib.util": EasyDict,
    "dnnlib.tflib.network": Network,
}
for _module, _thing in _PRETENDED.items():
    _thing.__module__ = _module  # what the pickle will name


@contextlib.contextmanager
def pretended_modules() -> Iterator[None]:
    """The modules official pickles name, importable as long as this lasts."""
    before = dict(sys.modules)
    for path, thing in _PRETENDED.items():
        for end in [i for i, c in enumerate(path) if c == "."] + [len(path)]:
            sys.modules.setdefault(path[:end], types.ModuleType(path[:end]))
        setattr(sys.modules[path], thing.__name__, thing)
    try:
        yield
    finally:
        for path in _PRETENDED:
            while path:
                if path not in before:
                    sys.modules.pop(path, None)
                path = path.rpartition(".")[0]


class Persistent(nn.Module):
    """A module that pickles as a record of class name, source code and state."""

    class_name: str
    version: int
    source: str

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("class_name", "version", "source")}
        meta = dict(type="class", version=self.version, module_src=self.source, class_name=self.class_name, state=state)
        return _reconstruct_persistent_obj, (meta,), None


def _class_name(path: str, discriminator: bool) -> str:
    last = path.rpartition(".")[2]
    if re.fullmatch(r"b\d+", last):
        return "DiscriminatorBlock" if discriminator else "SynthesisBlock"
    if re.fullmatch(r"conv\d?|skip|fromrgb", last):
        return "Conv2dLayer" if discriminator else "SynthesisLayer"
    names = {"mapping": "MappingNetwork", "synthesis": "SynthesisNetwork", "torgb": "ToRGBLayer"}
    return names.get(last, "FullyConnectedLayer")


def persistent(
    class_name: str,
    state: State,
    kwargs: Mapping[str, Any] | None = None,
    args: tuple[Any, ...] = (),
    version: int = 6,
    source: str = SOURCE,
    attributes: Mapping[str, Any] | None = None,
    clamps: Mapping[str, Any] | None = None,
) -> Persistent:
    """A tree of modules with these parameters and buffers, ready to be pickled inside ``pretended_modules``.

    ``attributes`` become attributes of the root, beside the constructor arguments ``args`` and ``kwargs``. ``clamps``:
    ``conv_clamp`` of the layers by name, ``""`` for all others that the official programs give one.
    """

    def module(name: str, path: str = "") -> Persistent:
        made = Persistent()
        made.class_name, made.version, made.source = name, version, source
        made.__dict__.update(activation="lrelu", act_gain=np.sqrt(2))  # official layers keep numpy numbers
        if clamps and name in ("SynthesisLayer", "ToRGBLayer", "Conv2dLayer"):
            made.__dict__["conv_clamp"] = None if path.endswith("skip") else clamps.get(path, clamps[""])
        return made

    root = module(class_name)
    for name, tensor in state.items():
        *path, last = name.split(".")
        place: nn.Module = root
        for depth, part in enumerate(path, start=1):
            if part not in place._modules:
                inner = ".".join(path[:depth])
                place.add_module(part, module(_class_name(inner, class_name == "Discriminator"), inner))
            place = place._modules[part]  # type: ignore[assignment]
        if last in _BUFFERS or not tensor.is_floating_point():
            place.register_buffer(last, tensor.clone())
        else:
            place.register_parameter(last, nn.Parameter(tensor.clone(), requires_grad=False))
    root.register_buffer("scratch", torch.zeros(1), persistent=False)
    root._init_args, root._init_kwargs = args, EasyDict(kwargs or {})  # type: ignore[assignment]
    for key, value in (attributes or {}).items():
        root.__dict__[key] = value
    return root.eval()


class ZipStorages(pickle.Pickler):
    """Writes the storages inside the pickle as torch zip archives instead of legacy torch files."""

    def reducer_override(self, obj: object) -> Any:
        if not isinstance(obj, torch.storage.TypedStorage):
            return NotImplemented
        stream = io.BytesIO()
        torch.save(obj, stream)
        return torch.storage._load_from_bytes, (stream.getvalue(),)


def dumps(payload: object, protocol: int = 4, storage: str = "legacy") -> bytes:
    """The pickle of a payload of pretended objects; ``storage``: "legacy" or "zip"."""
    stream = io.BytesIO()
    with pretended_modules():
        (ZipStorages if storage == "zip" else pickle.Pickler)(stream, protocol).dump(payload)
    return stream.getvalue()


def augment_pipe(version: int = 6) -> Persistent:
    """The augmentation pipe that snapshots of stylegan2-ada-pytorch carry."""
    state = {"Hz_geom": torch.arange(12.0), "Hz_fbank": torch.ones(4, 5), "p": torch.tensor(0.25)}
    return persistent("AugmentPipe", state, dict(xflip=1, rotate90=1), version=version)


def pytorch_payload(
    networks: Mapping[str, State],
    kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    version: int = 6,
    source: str = SOURCE,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The snapshot of these networks before it is pickled; ``attributes`` become those of every network."""
    payload: dict[str, Any] = {"training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset")}
    payload["training_set_kwargs"].update(path="faces.zip", use_labels=False, max_size=None, xflip=True)
    for name, state in networks.items():
        kind = "Discriminator" if name.startswith("D") else "Generator"
        own = (kwargs or {}).get(name, {})
        payload[name] = persistent(kind, state, own, (), version, source, attributes)
    payload["augment_pipe"] = augment_pipe(version)
    return payload


def write_pytorch(
    path: Path,
    networks: Mapping[str, State],
    kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    version: int = 6,
    protocol: int = 4,
    storage: str = "legacy",
) -> Path:
    """A snapshot ``{"G", "D", "G_ema", ...}`` of networks under official names, with their constructor arguments."""
    path.write_bytes(dumps(pytorch_payload(networks, kwargs, version), protocol, storage))
    return path


def tf_network(
    name: str, variables: Mapping[str, Any], static_kwargs: Mapping[str, Any], func: str | None = None, version: int = 5
) -> Network:
    """A TensorFlow network; variables under ``G_mapping/`` and ``G_synthesis/`` go to components of these names."""

    def state(name: str, func: str, own: list[tuple[str, np.ndarray]], parts: dict[str, Network]) -> dict[str, Any]:
        return {
            "version": version,
            "name": name,
            "static_kwargs": EasyDict(static_kwargs),
            "components": EasyDict(parts),
            "build_module_src": SOURCE,
            "build_func_name": func,
            "variables": own,
        }

    groups: dict[str, list[tuple[str, np.ndarray]]] = {}
    for key, value in variables.items():
        part, _, rest = key.partition("/")
        inside = part in ("G_mapping", "G_synthesis")
        array = np.asarray(value)
        array = array[()] if array.ndim == 0 else array  # as a TensorFlow session returns it: a number
        groups.setdefault(part if inside else "", []).append((rest if inside else key, array))
    parts = {part.removeprefix("G_"): Network(state(part, part, own, {})) for part, own in groups.items() if part != ""}
    func = func or ("D_stylegan2" if name == "D" else "G_main")
    return Network(state(name, func, groups.get("", []), parts))


def write_tensorflow(
    path: Path,
    networks: Mapping[str, Mapping[str, Any]],
    static_kwargs: Mapping[str, Any] | None = None,
    protocol: int = 3,
    old_numpy: bool = True,
    func: str | None = None,
    version: int = 5,
) -> Path:
    """A snapshot ``(G, D, Gs)`` (or one bare network) of variables, components by the prefixes ``tf_network`` knows.

    ``old_numpy`` names numpy's module as releases before 2 do, which wrote the published files. ``version`` is that
    of the networks' states: 4 in stylegan2, 5 in stylegan2-ada.
    """
    made = [tf_network(name, variables, static_kwargs or {}, func, version) for name, variables in networks.items()]
    data = dumps(tuple(made) if len(made) > 1 else made[0], protocol)
    path.write_bytes(_with_old_numpy(data) if old_numpy else data)
    return path


def _with_old_numpy(data: bytes) -> bytes:
    """A pickle that names numpy's module as releases before 2 do, without frames, whose lengths would change."""
    frames = [i for opcode, _, i in pickletools.genops(data) if opcode.name == "FRAME" and i is not None]
    for begin in reversed(frames):
        data = data[:begin] + data[begin + 9 :]
    data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    return data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")


def rosinality_bytes(
    states: Mapping[str, State], latent_avg: torch.Tensor | None = None, legacy: bool = False
) -> bytes:
    """A checkpoint with networks, the state of an optimiser, and the arguments of the training."""
    parameters = [nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.Adam(parameters)
    parameters[0].grad = torch.ones(3)
    optimizer.step()
    payload: dict[str, Any] = {name: dict(state) for name, state in states.items()}
    payload |= {"g_optim": optimizer.state_dict(), "args": argparse.Namespace(size=64, r1=10.0), "ada_aug_p": 0.1}
    if latent_avg is not None:
        payload["latent_avg"] = latent_avg
    stream = io.BytesIO()
    torch.save(payload, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def without_checksums(data: bytes) -> bytes:
    """A zip file as torch writes it where it is told to leave checksums out: zeros in their places."""
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir
        for _ in archive.infolist():
            changed[at + 16 : at + 20] = bytes(4)
            at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(changed)


def write_rosinality(
    path: Path, states: Mapping[str, State], latent_avg: torch.Tensor | None = None, legacy: bool = False
) -> Path:
    """Write ``rosinality_bytes`` to a file."""
    path.write_bytes(rosinality_bytes(states, latent_avg, legacy))
    return path
