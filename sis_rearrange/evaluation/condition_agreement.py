"""The protocol "conditions": how much of the segmentation mapper's proxy agreement the other mappers keep.

Samples that no mapper was trained on are drawn in every condition that the pack has a mapper for; each drawing is
written and read as a user's file. Proxy agreement is the share of cells where the mapper's label is the sample's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sis_rearrange.conditions import get_condition
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.drawings import drawn
from sis_rearrange.evaluation.networks import NOISE_MODE, Networks, batches, parts
from sis_rearrange.evaluation.outcome import Outcome, Request, about, hash_of, table
from sis_rearrange.metrics import bootstrap
from sis_rearrange.pack import SEGMENTER, Pack, mapper_file
from sis_rearrange.tensors import to_uint8

SEEDS = 660_000  # the first of the samples
SAMPLES, QUICK_SAMPLES = 1024, 128
PSI = 0.9
DRAWING = 64  # pixels per side at least
REFERENCE = "segmentation"
WANTED = ("sketch", "scribble", "hed")  # whose mappers are promised
LEAST = 0.85  # share of the reference's agreement
HEAD = ("condition", "proxy agreement", "95 % interval", f"share of {REFERENCE}", "95 % interval", "wanted")


def conditions_outcome(pack: Pack, request: Request) -> Outcome:
    """Run the protocol. A pack without some mapper is told which; InputError where it lacks the reference's."""
    for file in (mapper_file(REFERENCE), SEGMENTER):
        if file not in pack.info["files"]:
            raise InputError(f"pack {pack.name!r} has no {file}, which the protocol conditions compares with")
    seeds = range(SEEDS, SEEDS + (QUICK_SAMPLES if request.quick else SAMPLES))
    agreement = {REFERENCE: mapper_agreement(pack, REFERENCE, seeds, request.progress)}
    unmeasured = []
    for name in (name for name in pack.conditions() if name != REFERENCE):
        try:
            agreement[name] = mapper_agreement(pack, name, seeds, request.progress)
        except InputError as error:  # a condition whose extractor or plugin is not there
            unmeasured.append(f"{name}: not measured ({error})")
    names = list(agreement)
    results = about(
        pack,
        "conditions",
        request,
        {"samples": len(seeds)},
        "none",
        {"samples": (seeds.start, seeds.stop)},
        {"drawings": f"at {max(DRAWING, pack.resolution)} px, as PNG files; noise {NOISE_MODE}, psi {PSI:g}"},
        {"segmenter (parts for the drawings)": hash_of(pack.segmenter())},
    )
    results["rows"] = rows = [_row(name, agreement) for name in names]
    for row in rows:
        for metric in ("proxy_agreement_mapper", f"proxy_agreement_share_of_{REFERENCE}"):
            found = row["agreement" if metric == "proxy_agreement_mapper" else "share"]
            name = f"{metric}_{row['condition']}_{len(seeds)}"
            results["metrics"][name], results["intervals"][name] = found["mean"], found["interval"]
    absent = [name for name in WANTED if name not in pack.conditions()]
    results["notes"] += [*(f"{name}: the pack has no {mapper_file(name)}" for name in absent), *unmeasured]
    for row in rows:
        if row["read"] < len(seeds):
            results["notes"].append(f"{row['condition']}: {len(seeds) - row['read']} drawings could not be read")
    results["notes"] += [f"QUICK: {len(seeds)} samples"] * request.quick
    return Outcome(results, _text(results), page=_page(results))


@torch.inference_mode()
def mapper_agreement(pack: Pack, name: str, seeds: Sequence[int], progress: bool | None = None) -> torch.Tensor:
    """Proxy agreement of each sample with what the mapper of a condition reads from its drawing; ``[N]`` in [0, 1].

    NaN where the drawing cannot be read, as one without a single line.
    """
    networks, condition = Networks.of(pack, PSI, rearranger=False), get_condition(name, pack.palette())
    mapper, segmenter, found = pack.mapper(name), pack.segmenter(), []
    for at in batches(len(seeds), f"{name} to proxy mask", progress):
        source = networks.sources(seeds[at])
        pictures = networks.picture(source)
        labels = parts(segmenter, pictures).numpy().astype(np.uint8)
        for picture, mask, own, seed in zip(to_uint8(pictures), labels, source.labels, seeds[at], strict=True):
            file = drawn(condition, _enlarged(picture), _enlarged(mask), seed)
            try:
                x = condition.read(file, mapper.image_resolution)[0]
            except InputError:
                found.append(math.nan)
            else:
                found.append((mapper(x)[0].argmax(dim=0) == own).float().mean().item())
    return torch.tensor(found)


def _enlarged(plane: np.ndarray) -> np.ndarray:
    """Every pixel repeated until the drawing is ``DRAWING`` pixels or more: people's strokes are not thinner."""
    factor = max(1, math.ceil(DRAWING / plane.shape[0]))
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)


def _row(name: str, agreement: dict[str, torch.Tensor]) -> dict[str, Any]:
    both = torch.stack([agreement[name], agreement[REFERENCE]], dim=1)
    both = both[~both.isnan().any(dim=1)]
    sums = both.double().sum(dim=0)
    row: dict[str, Any] = {"condition": name, "read": len(both), "holds": None}
    row["agreement"] = row["share"] = {"mean": None, "interval": None}
    if len(both):
        own = both[:, 0]
        row["agreement"] = {"mean": float(own.mean()), "interval": bootstrap(own, what="samples").as_json()}
    if len(both) and sums[1] > 0:
        between = bootstrap(both, lambda drawn: float(drawn[0] / drawn[1]), what="samples")
        row["share"] = {"mean": float(sums[0] / sums[1]), "interval": between.as_json()}
        row["holds"] = row["share"]["mean"] >= LEAST if name in WANTED else None
    return row


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def number(found: dict[str, Any]) -> str:
        return "n/a" if found["mean"] is None else f"{found['mean']:.3f}"

    def between(found: dict[str, Any]) -> str:
        low, high = ((found["interval"] or {}).get(end) for end in ("low", "high"))
        return "n/a" if low is None or high is None else f"{low:.3f} to {high:.3f}"

    mark = "" if row["holds"] is None else f">= {LEAST:g}: {'ok' if row['holds'] else 'FAIL'}"
    return (
        row["condition"],
        number(row["agreement"]),
        between(row["agreement"]),
        number(row["share"]),
        between(row["share"]),
        mark,
    )


def _text(results: dict[str, Any]) -> str:
    rows = [HEAD, *(_cells(row) for row in results["rows"])]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = f"pack {results['pack']} ({results['hash'][:12]}), conditions protocol{' (quick)' * results['quick']}"
    return "\n".join([head, "", *lines, *results["notes"]])


def _page(results: dict[str, Any]) -> str:
    lines = [
        f"# {results['pack']}: protocol conditions{' (quick)' * results['quick']}",
        "",
        f"    {results['command']}",
        "",
    ]
    lines += table(HEAD, [_cells(row) for row in results["rows"]])
    lines += ["", *(f"- {note}" for note in results["notes"])]
    for key in ("counts", "seeds", "preprocessing", "extractors", "versions"):
        lines.append(f"- {key}: " + "; ".join(f"{name}: {value}" for name, value in results[key].items()))
    return "\n".join(lines) + "\n"
