"""Write the networks of a weight file in another layout, once their pictures have been seen to be the same."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sis_rearrange import __version__
from sis_rearrange.conversion import expressible, kind_of, to_rosinality
from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes
from sis_rearrange.loading import Loaded, build, convert, pick
from sis_rearrange.tensors import seeded_normal
from sis_rearrange.weights import decode_networks, encode_weights, read_networks, sha256

LAYOUTS = ("ours", "official", "rosinality")
LARGEST_DIFFERENCE = 1e-3  # between pictures in [-1, 1] before and after
CHECK_SEED, CHECK_PSI = 0, 0.7

# A network's name in the layout, from its name in the file; for any other name the averaged generator's or D's.
_NAMES = {
    "official": {"G": "G", "g": "G", "G_ema": "G_ema", "g_ema": "G_ema", "Gs": "G_ema"},
    "rosinality": {"G": "g", "g": "g", "G_ema": "g_ema", "g_ema": "g_ema", "Gs": "g_ema"},
}
_UNNAMED = {
    "official": {"generator": "G_ema", "discriminator": "D"},
    "rosinality": {"generator": "g_ema", "discriminator": "d"},
}


@dataclass(frozen=True)
class Converted:
    """One network that was written."""

    source: str  # its name in the file that was read, "" where it had none
    name: str  # its name in the file that was written, "" in safetensors files
    kind: str  # "generator" or "discriminator"
    lines: list[str]  # what was kept and what dropped
    difference: float  # largest, between pictures (of a discriminator: scores) before and after


def convert_file(
    source: str | Path, target: str | Path, layout: str = "ours", network: str | None = None, licence: str = ""
) -> tuple[list[Converted], list[str]]:
    """Write the networks of ``source`` to ``target`` in a layout: ``ours``, ``official`` or ``rosinality``.

    A name that ends in ``.safetensors`` holds one network: ``network``, or the averaged generator. Any other is written
    as a torch file of plain tensors with every network of the source, or with ``network`` alone; ours is always
    safetensors. ``licence``, where the weights are from and the networks' constructor arguments go into the file.
    Nothing is written where a picture of the new file differs from one of the old by more than ``LARGEST_DIFFERENCE``.

    Returns what was written and the names of the networks that were not. Raises InputError, in one line, for files
    that cannot be converted and for a missing licence.
    """
    target = Path(target)
    single = target.suffix == ".safetensors"
    if layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: must be one of {', '.join(LAYOUTS)}")
    if layout == "ours" and not single:
        raise InputError(f"{target}: our layout is a safetensors file; let the name end in .safetensors")
    records = read_networks(source)
    names = _chosen(records, source, network, single)
    found = {name: convert(records[name], source, tuple(records)) for name in names}
    about = _about(source, found, licence)
    data, made = _encoded(found, layout, single, about)
    after = decode_networks(data, str(target))
    results = []
    for name, loaded in found.items():
        new_name, lines = made[name]
        again = convert(after[new_name], target)
        # one average w for all of rosinality's generators: where it is another's, it cannot be compared
        psi = 1.0 if new_name == "g" and "g_ema" in after else CHECK_PSI
        difference = _difference(loaded, again, source, psi)
        lost = loaded.config["args"]["conv_clamp"] if again.config["args"]["conv_clamp"] is None else None
        if not difference <= LARGEST_DIFFERENCE:
            why = "" if lost is None else f" without its limit of {lost:g} on activations, which has no place there"
            raise InputError(
                f"{source}: the picture changes by {difference:.1e} in the conversion{why}; nothing written"
            )
        if lost is not None:
            lines = [*lines, f"without its limit of {lost:g} on activations the check comes out the same"]
        results.append(Converted(name, new_name, loaded.config["kind"], lines, difference))
    write_bytes(target, data)
    return results, [name for name in records if name not in found]


def _chosen(records: Mapping[str, Any], source: str | Path, network: str | None, single: bool) -> list[str]:
    kinds = {name: kind_of(record.state) for name, record in records.items()}
    if network is not None:
        found = kinds.get(network)
        return [pick(records, "generator" if found is None else found[1], network, source).name]
    usable = [name for name, found in kinds.items() if found is not None]
    if single and [kinds[name][1] for name in usable] != ["discriminator"]:  # type: ignore[index]
        return [pick(records, "generator", None, source).name]
    return usable or [pick(records, "generator", None, source).name]


def _about(source: str | Path, found: Mapping[str, Loaded], licence: str) -> dict[str, Any]:
    """Licence and provenance; those that the source carries itself travel on."""
    notes = next(iter(found.values())).notes
    licence = licence or str(notes.get("licence", ""))
    if not licence:
        raise InputError(
            f"{source}: says nothing of its licence; give it with --licence, such as "
            "'NVIDIA Source Code License-NC' or 'CC BY 4.0', so that it travels with the weights"
        )
    provenance: dict[str, Any] = {"file": Path(source).name, "sha256": sha256(source), "sis_rearrange": __version__}
    if "provenance" in notes:
        provenance["before"] = notes["provenance"]
    kept = {"credit": notes["credit"]} if "credit" in notes else {}
    return {"licence": licence, "provenance": provenance, **kept}


def _encoded(
    found: Mapping[str, Loaded], layout: str, single: bool, about: Mapping[str, Any]
) -> tuple[bytes, dict[str, tuple[str, list[str]]]]:
    """The file's bytes, and for every network its name there with what became of it."""
    payload: dict[str, Any] = {}
    made: dict[str, tuple[str, list[str]]] = {}
    arguments: dict[str, Any] = {}
    for name, loaded in found.items():
        config, state, lines = loaded.config, loaded.state, loaded.report.lines()
        extras: dict[str, torch.Tensor] = {}
        if layout == "rosinality":
            state, extras, report = to_rosinality(config, state)
            config = {**config, "args": expressible(config["args"])}
            lines = lines + report.lines()
        if single:
            return encode_weights({**state, **extras}, {**config, **about}, half=False), {name: ("", lines)}
        new_name = _NAMES[layout].get(name, _UNNAMED[layout][config["kind"]])
        if new_name in payload:
            raise InputError(
                f"networks {name!r} and another would both be called {new_name!r}; pick one with --network"
            )
        if new_name == "g" and "latent_avg" in payload:
            extras = {}
        if new_name == "g":
            lines = [*lines, "its latent_avg is that of g_ema where both are in one file"]
        payload |= {new_name: dict(state), **extras}
        arguments[new_name] = config["args"]
        made[name] = (new_name, lines)
    stream = io.BytesIO()
    torch.save({**payload, "config": {**about, "networks": arguments}}, stream)
    return stream.getvalue(), made


def _difference(before: Loaded, after: Loaded, source: str | Path, psi: float) -> float:
    """Largest difference between what two networks make of the same seed; settings without a place may be lost."""
    args, changed = before.config["args"], after.config["args"]
    if changed not in (args, expressible(args)):
        return float("inf")
    outputs = []
    c = torch.eye(args["c_dim"])[:1] if args["c_dim"] else None
    for loaded in (before, after):
        network = build(loaded, source)
        with torch.inference_mode():
            if loaded.config["kind"] == "generator":
                outputs.append(network(seeded_normal([CHECK_SEED], [args["z_dim"]]), c, truncation_psi=psi))
            else:
                side = args["img_resolution"]
                outputs.append(network(seeded_normal([CHECK_SEED], [args["img_channels"], side, side]), c))
    scale = 1.0 if before.config["kind"] == "generator" else max(1.0, outputs[0].abs().max().item())
    return (outputs[0] - outputs[1]).abs().max().item() / scale
