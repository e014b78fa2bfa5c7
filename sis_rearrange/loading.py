"""Generators and discriminators from weight files of any StyleGAN2 program, ready to use.

generator = sis_rearrange.load_generator("ffhq.pkl")
images = generator(z, truncation_psi=0.7)  # or generator.synthesis(ws), through the fastest engine there is
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from sis_rearrange.conversion import KINDS, Report, kind_of, to_official
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.pack import load_pack
from sis_rearrange.pack_files import INFO_FILE, find_pack, pack_names

if TYPE_CHECKING:
    from sis_rearrange.stylegan2 import Discriminator, Generator
    from sis_rearrange.weights import NetworkRecord

# Averaged weights first: those are the ones that make good pictures.
PREFERRED = {"generator": ("G_ema", "Gs", "g_ema", "G", "g", "generator"), "discriminator": ("D", "d", "discriminator")}
NOTES = ("licence", "credit", "provenance")  # what a file may say of itself


@dataclass(frozen=True)
class Loaded:
    """One network of a file, in the official layout."""

    name: str  # as the file calls it, "" where it holds a single one
    config: dict[str, Any]  # {"kind": "generator" or "discriminator", "args": constructor arguments}
    state: dict[str, torch.Tensor]  # official names
    report: Report  # what was kept and dropped
    notes: dict[str, Any]  # what the file says of itself: licence, provenance
    others: tuple[str, ...]  # the file's other networks


def load_generator(
    path: str | Path, name: str | None = None, backend: str = "auto", device: str | torch.device = "cpu"
) -> Generator:
    """The generator of a weight file, or of a pack (folder or name), in eval mode; no code of the file runs.

    Args:
        path: official pickle (PyTorch or TensorFlow era), rosinality ``.pt``, plain state dict or safetensors; what it
            is shows in its content. A pack's name counts where no file is called so.
        name: which network of a file with several, such as ``"G"``; None takes the averaged one.
        backend: what ``synthesis`` runs on when gradients are off, such as ``"torch"``; see `inference.accelerate`.
        device: a name that torch knows.

    Raises InputError, in one line, for a file that cannot be read or holds no StyleGAN2 generator.
    """
    from sis_rearrange.inference import accelerate

    if _is_pack(path):
        if name is not None:
            raise InputError(f"{path}: is a pack, whose only generator needs no name; leave out {name!r}")
        generator = load_pack(path).generator()
    else:
        generator = cast("Generator", build(read_network(path, "generator", name), path))
    return accelerate(generator.to(device), backend)


def load_discriminator(path: str | Path, name: str | None = None, device: str | torch.device = "cpu") -> Discriminator:
    """The discriminator of a weight file or pack, in eval mode; see `load_generator`."""
    if _is_pack(path):
        return load_pack(path).discriminator().to(device)
    return cast("Discriminator", build(read_network(path, "discriminator", name), path)).to(device)


def read_network(path: str | Path, kind: str, name: str | None = None) -> Loaded:
    """One network of a weight file: the one called ``name``, or of several of that ``kind`` the averaged one."""
    from sis_rearrange.weights import read_networks

    records = read_networks(path)
    return convert(pick(records, kind, name, path), path, tuple(records))


def convert(record: NetworkRecord, path: str | Path, names: tuple[str, ...] = ()) -> Loaded:
    """A network in the official layout; errors name the file."""
    try:
        config, state, report = to_official(record)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    notes: dict[str, Any] = {key: record.config[key] for key in NOTES if key in record.config}
    others = tuple(other for other in names if other != record.name)
    return Loaded(record.name, config, state, report, notes, others)


def build(loaded: Loaded, path: str | Path) -> torch.nn.Module:
    """The network itself, in eval mode, its parameters without gradients."""
    try:
        with torch.random.fork_rng(devices=[]):  # initial values are drawn, then overwritten: leave no trace
            network = KINDS[loaded.config["kind"]](**loaded.config["args"])
        network.load_state_dict(loaded.state, strict=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: the weights do not make a StyleGAN2 {loaded.config['kind']} ({reason})") from error
    return network.eval().requires_grad_(False)


def pick(records: Mapping[str, NetworkRecord], kind: str, name: str | None, path: str | Path) -> NetworkRecord:
    """The record called ``name``, or the one to prefer among those of a kind; InputError where there is none."""
    if name is not None:
        if name not in records:
            listed = ", ".join(key or "one without a name" for key in records) or "no networks"
            raise InputError(f"{path}: holds no network {name!r}{nearest(name, records)}; it has {listed}")
        found = kind_of(records[name].state)
        if found is not None and found[1] != kind:
            raise InputError(f"{path}: its network {name!r} is a {found[1]}, not a {kind}; name another one")
        return records[name]
    kinds = {key: kind_of(record.state) for key, record in records.items()}
    fitting = [key for key, found in kinds.items() if found is not None and found[1] == kind]
    for preferred in PREFERRED[kind]:
        if preferred in fitting:
            return records[preferred]
    if len(fitting) > 1:
        raise InputError(f"{path}: holds several {kind}s ({', '.join(fitting)}); say which one by its name")
    if fitting:
        return records[fitting[0]]
    if len(records) == 1 and kind == "generator":
        return next(iter(records.values()))  # to_official says what it is instead
    listed = ", ".join(key or "one without a name" for key in records) or "none"
    raise InputError(f"{path}: holds no StyleGAN2 {kind} (networks: {listed}); give another file")


def _is_pack(path: str | Path) -> bool:
    """Whether this is a pack's folder, its description, or the name of a pack where no such file is."""
    place = Path(path)
    try:
        if place.is_dir():
            find_pack(path)  # says what is wrong with any other folder
            return True
        return place.name == INFO_FILE or (str(path) in pack_names() and not place.exists())
    except OSError:
        return False  # a name too long for the file system: the reader says so
