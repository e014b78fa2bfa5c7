"""Start a domain pack from the weights of any StyleGAN2: generator, discriminator and proxy clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sis_rearrange.conversion import for_label, kind_of
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator
from sis_rearrange.loading import Loaded, build, convert, pick
from sis_rearrange.pack import DISCRIMINATOR, GENERATOR, Pack, create_pack, load_pack, write_component
from sis_rearrange.pack_files import unfinished_folder
from sis_rearrange.sampling import pick_device
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.training.pack_training import Fitting, fit_pack_proxy, provenance
from sis_rearrange.weights import read_networks, sha256


@dataclass(frozen=True)
class Domain:
    """What a pack says of its pictures."""

    name: str  # kind of pictures
    classes: Sequence[str] = ()  # part names, for segmentation masks and scribbles; sketches and exemplars need none
    palette: Sequence[Sequence[int]] = ()  # their colours, RGB 0-255
    licence: str = ""  # of the pictures and the weights; "" takes that of the weight file where it names one
    credit: str = ""  # attribution that pictures made with the pack carry; likewise


def new_pack(
    path: Path,
    name: str,
    domain: Domain,
    generator_file: str,
    network: str | None = None,
    discriminator_file: str | None = None,
    discriminator_network: str | None = None,
    tap: int = 32,
    num_clusters: int = 24,
    samples: int = 1000,
    psi: float = 0.9,
    label: int | None = None,
    source: str = "",
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Pack:
    """Write the pack, whole or not at all, and open it.

    Args:
        path: its folder, which must not be there or be empty.
        generator_file: weights of any layout; its discriminator comes along where it has one.
        network, discriminator_network: which networks of the files; None takes the averaged generator, and D.
        discriminator_file: another file for the discriminator.
        tap, num_clusters, samples, psi: of the proxy clusters; see `proxy.fit_proxy`.
        label: class of a conditional generator that the pack is to be of.
        source: where the weights are from, for the provenance.
        say: called with a line where something is left out, such as a discriminator of another architecture.

    Raises InputError, in one line, where a file, the tap or the folder cannot be used.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is there already; choose another folder or remove it")
    parts = _networks(generator_file, network, discriminator_file, discriminator_network, say)
    parts = {relpath: _of_class(loaded, label, file) for relpath, (loaded, file) in parts.items()}
    generator = build(parts[GENERATOR][0], generator_file)
    assert isinstance(generator, Generator)
    if generator.synthesis.img_channels != 3:
        raise InputError(f"{generator_file}: its pictures have {generator.synthesis.img_channels} channels, not 3")
    try:
        SplitGenerator(generator, tap)
    except ValueError as error:
        raise InputError(f"--tap {tap}: {error}") from None
    _check_discriminator(parts)
    where = pick_device(device)
    with unfinished_folder(path) as folder:
        _write(folder, name, domain, parts, source)
        fit_pack_proxy(load_pack(folder), Fitting(tap, num_clusters, samples, psi), where)
    return load_pack(path)


def _networks(
    generator_file: str,
    network: str | None,
    discriminator_file: str | None,
    discriminator_network: str | None,
    say: Callable[[str], None],
) -> dict[str, tuple[Loaded, str]]:
    """Relative path in the pack -> network and the file it is from."""
    records = read_networks(generator_file)
    found = pick(records, "generator", network, generator_file)
    parts = {GENERATOR: (convert(found, generator_file), generator_file)}
    asked = discriminator_file is not None or discriminator_network is not None
    if discriminator_file is not None and discriminator_file != generator_file:
        generator_file, records = discriminator_file, read_networks(discriminator_file)
    kinds = [kind_of(record.state) for record in records.values()]
    if not asked and ("discriminator" not in [kind[1] for kind in kinds if kind is not None]):
        say("the file has no discriminator: train the rearranger with --adversarial 0")
        return parts
    found = pick(records, "discriminator", discriminator_network, generator_file)
    try:
        parts[DISCRIMINATOR] = convert(found, generator_file), generator_file
    except InputError as error:
        if asked:
            raise
        say(f"without discriminator ({error}): train the rearranger with --adversarial 0")
    return parts


def _of_class(loaded: Loaded, label: int | None, file: str) -> tuple[Loaded, str]:
    """A conditional network as that of one class; packs have no labels."""
    kind, classes = loaded.config["kind"], loaded.config["args"]["c_dim"]
    if not classes:
        if label is not None:
            raise InputError(f"--class {label}: the {kind} of {file} has no classes; leave the option out")
        return loaded, file
    if label is None:
        raise InputError(f"{file}: its {kind} has {classes} classes; pick the pack's with --class 0 to {classes - 1}")
    try:
        config, state = for_label(loaded.config, loaded.state, label)
    except InputError as error:
        raise InputError(f"--{error}") from error
    return Loaded(loaded.name, config, state, loaded.report, loaded.notes, loaded.others), file


def _check_discriminator(parts: Mapping[str, tuple[Loaded, str]]) -> None:
    if DISCRIMINATOR not in parts:
        return
    sizes = {key: (part.config["args"]["img_resolution"], part.config["args"]["img_channels"])
             for key, (part, _) in parts.items()}  # fmt: skip
    if sizes[GENERATOR] != sizes[DISCRIMINATOR]:
        pixels = f"{sizes[DISCRIMINATOR][0]} pixels, the generator's have {sizes[GENERATOR][0]}"
        raise InputError(f"{parts[DISCRIMINATOR][1]}: the discriminator is for pictures of {pixels}")
    build(*parts[DISCRIMINATOR])


def _write(folder: Path, name: str, domain: Domain, parts: Mapping[str, tuple[Loaded, str]], source: str) -> None:
    """The pack as far as the weight files give it."""
    args, notes = parts[GENERATOR][0].config["args"], parts[GENERATOR][0].notes
    licence = domain.licence or str(notes.get("licence", ""))
    credit = domain.credit or str(notes.get("credit", ""))
    entry = {"what": f"pictures of the domain {domain.name}", "licence": licence, "credit": credit}
    create_pack(
        folder,
        name,
        domain.name,
        domain.classes,
        domain.palette,
        int(args["img_resolution"]),
        [entry] if licence or credit else [],
    )
    for relpath, (loaded, file) in parts.items():
        origin: dict[str, Any] = {"file": Path(file).name, "sha256": sha256(file), "layout": loaded.report.layout}
        facts = provenance(source=source, network=loaded.name, **origin)
        write_component(folder, relpath, loaded.state, loaded.config, facts)
