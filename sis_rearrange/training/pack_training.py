"""Train the parts of a domain pack and write them into it, with where they are from."""

from __future__ import annotations

import copy
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sis_rearrange import __version__
from sis_rearrange.conditions import get_condition
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator
from sis_rearrange.pack import (
    DISCRIMINATOR,
    PROXY,
    REARRANGER,
    SEGMENTER,
    UNLABELLED,
    Pack,
    load_pack,
    mapper_file,
    write_component,
)
from sis_rearrange.proxy import ProxyClusters, fit_proxy
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.training.generator import GeneratorConfig
from sis_rearrange.training.mapper import MapperConfig, MapperTraining
from sis_rearrange.training.origins import NOTHING, Origin, origin_of
from sis_rearrange.training.rearranger import TRAIN_SEEDS, RearrangerConfig, RearrangerTraining
from sis_rearrange.training.run import TICK, run_training
from sis_rearrange.training.scale import Scale, make_scale
from sis_rearrange.training.states import stored_states
from sis_rearrange.training.watching import progress_bar

PROXY_SEEDS = range(TRAIN_SEEDS - 100_000, TRAIN_SEEDS)  # samples the clusters are fitted on; never evaluated


def provenance(**facts: Any) -> dict[str, Any]:
    """What `domain.json` keeps of a part: the command line that made it, versions, and ``facts``."""
    program = Path(sys.argv[0]).name
    command = shlex.join(["python", program] if program.endswith(".py") else [program]) + " "
    return {
        "command": (command + shlex.join(sys.argv[1:])).strip(),
        "versions": {"sis_rearrange": __version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        **facts,
    }


def facts_of(
    config: RearrangerConfig | MapperConfig | GeneratorConfig, scores: Mapping[str, float], processes: int = 1
) -> dict[str, Any]:
    """Provenance of a training; its ``minutes`` stand where `evaluation.latency` looks for them."""
    rounded = {name: round(value, 4) for name, value in scores.items() if name != "minutes"}
    settings = json.loads(json.dumps(asdict(config)))
    spread = {"processes": processes} if processes > 1 else {}
    return provenance(config=settings, seed=config.seed, minutes=round(scores["minutes"], 2), scores=rounded, **spread)


class Fitting(NamedTuple):
    """What proxy clusters are fitted with."""

    tap: int  # resolution of the feature map
    num_clusters: int
    samples: int
    psi: float  # truncation of the samples


def fitted_proxy(pack: Pack, fitting: Fitting, device: torch.device, start: Origin = NOTHING) -> ProxyClusters:
    """Proxy clusters of a pack's generator; the pack stays as it is. InputError for numbers that make no sense.

    Where a pack to ``start`` from is given, its clusters are moved, and keep their order.
    """
    tap, num_clusters, samples, psi = fitting
    if not 1 <= samples <= len(PROXY_SEEDS):
        raise InputError(f"--proxy-samples {samples}: must be 1 to {len(PROXY_SEEDS)}")
    if not 2 <= num_clusters <= 256:  # proxy masks travel as 8-bit index PNGs
        raise InputError(f"--clusters {num_clusters}: must be 2 to 256")
    try:
        split = SplitGenerator(copy.deepcopy(pack.generator()).to(device), tap)
    except ValueError as error:
        raise InputError(f"--tap {tap}: {error}") from None
    theirs = None if start.pack is None else start.pack.proxy()
    if theirs is not None and (theirs.resolution, theirs.K) != (tap, num_clusters):
        raise InputError(f"--resume-from {start.name}: give its --tap {theirs.resolution} --clusters {theirs.K}")
    if theirs is not None and theirs.channels != split.tap.channels:
        raise InputError(
            f"--resume-from {start.name}: has {theirs.channels} channels at that tap, {pack.name} {split.tap.channels}"
        )
    with progress_bar(samples, "proxy clusters") as bar:
        return fit_proxy(split, num_clusters, PROXY_SEEDS[:samples], psi=psi, progress=bar.update, start=theirs)


def fit_pack_proxy(pack: Pack, fitting: Fitting, device: torch.device, start: Origin = NOTHING) -> Pack:
    """Fit proxy clusters for a pack's generator, write them into the pack, and open it anew."""
    proxy = fitted_proxy(pack, fitting, device, start)
    config = {"kind": "proxy", "args": proxy.config, "psi": fitting.psi}
    facts = provenance(samples=fitting.samples, psi=fitting.psi, **start.facts)
    # Centroids stay in full precision: a label near a border must not depend on rounding
    write_component(pack.path, PROXY, proxy.state_dict(), config, facts, half=False)
    return load_pack(pack.path)


def rearranger_training(
    pack: Pack,
    config: RearrangerConfig,
    device: torch.device,
    proxy: ProxyClusters | None = None,  # clusters to train for; None: the pack's
    scale: Scale | None = None,
    start: Origin = NOTHING,  # whose rearranger to start from
    relpath: str = REARRANGER,  # which of them
) -> RearrangerTraining:
    """The training of a pack's rearranger; InputError where the pack lacks a part, or the one to start from differs."""
    proxy = proxy or pack.proxy()
    start.check_clusters(proxy)
    proxy = copy.deepcopy(proxy).to(device)
    split = SplitGenerator(copy.deepcopy(pack.generator()).to(device), proxy.resolution)
    discriminator = None
    if config.weights.adversarial > 0:
        if DISCRIMINATOR not in pack.info["files"]:
            raise InputError(f"pack {pack.name!r} has no discriminator; train with --adversarial 0")
        discriminator = copy.deepcopy(pack.discriminator()).to(device)
    segmenter = copy.deepcopy(pack.segmenter()).to(device) if config.weights.uses_parts else None
    first = None if start.pack is None else _rearranger_of(start.pack, relpath)
    return RearrangerTraining(split, proxy, discriminator, segmenter, config, scale, first, start.name)


def _rearranger_of(pack: Pack, relpath: str) -> Rearranger:
    """The one at ``relpath``: an unlabelled one never goes on from a labelled one."""
    return replace(pack, rearranger_file=relpath).rearranger()


def train_pack_rearranger(
    pack_path: str,
    run: Path,
    config: RearrangerConfig,
    tap: int = 32,
    num_clusters: int = 24,
    proxy_samples: int = 1000,
    refit_proxy: bool = False,
    device: str = "cpu",
    tick: float = TICK,
    relpath: str = REARRANGER,
    resume_from: str = "",
) -> dict[str, float]:
    """Fit the proxy clusters where the pack has none, train its rearranger, write both; returns the scores.

    ``tap``, ``num_clusters`` and ``proxy_samples`` are used only where the clusters are fitted. Of several processes
    the first one fits and writes; all read the pack. ``relpath`` is where the rearranger is written: `UNLABELLED` for
    the pack's second one, which no part labels may help (InputError where the weights ask for them). ``resume_from``
    names a pack whose rearranger is trained on, and whose clusters are moved where this pack's are fitted.
    """
    if relpath == UNLABELLED and config.weights.uses_parts:
        raise InputError("--unlabelled: part labels would help this rearranger; leave out --parts and --part-colour")
    scale, pack = make_scale(device, config.precision, config.accumulate), load_pack(pack_path)
    start = origin_of(resume_from, run)
    if start.pack is not None:  # that it is there shows before clusters are replaced
        _rearranger_of(start.pack, relpath)

    def fit() -> None:
        there = PROXY in pack.info["files"]
        # A run that goes on has its clusters: moved once more, they would be others
        if not there or (refit_proxy and not (start.name and stored_states(run))):
            fit_pack_proxy(pack, Fitting(tap, num_clusters, proxy_samples, config.psi), scale.device, start)

    scale.on_main(fit)
    pack = load_pack(pack.path)
    training = rearranger_training(pack, config, scale.device, None, scale, start, relpath)
    scores = run_training(training, run, tick)
    if scale.main:
        net = training.ema
        facts = facts_of(config, scores, scale.processes) | start.history(relpath, pack.path, run)
        write_component(pack.path, relpath, net.state_dict(), {"kind": "rearranger", "args": net.config}, facts)
        start.credit(pack.path)
    return scores


def rearranger_dry_run(
    pack_path: str,
    config: RearrangerConfig,
    tap: int,
    num_clusters: int,
    refit_proxy: bool,
    device: str,
    relpath: str = REARRANGER,
    start: Origin = NOTHING,
) -> RearrangerTraining:
    """The training that `train_pack_rearranger` would run, but for clusters of few samples where those are missing."""
    scale, pack = make_scale(device, config.precision, config.accumulate), load_pack(pack_path)
    proxy = None
    if refit_proxy or PROXY not in pack.info["files"]:
        fitting = Fitting(tap, num_clusters, 4 * num_clusters, config.psi)
        proxy = fitted_proxy(pack, fitting, scale.device, start)
    config = replace(config, guide_samples=min(64, config.guide_samples))
    return rearranger_training(pack, config, scale.device, proxy, scale, start, relpath)


def mapper_training(
    pack: Pack,
    config: MapperConfig,
    device: torch.device,
    scale: Scale | None = None,
    start: Origin = NOTHING,  # whose mapper to start from
) -> MapperTraining:
    """The training of a pack's mapper; InputError where the pack lacks clusters, segmenter or rearranger it needs."""
    start.check_clusters(pack.proxy())
    proxy = copy.deepcopy(pack.proxy()).to(device)
    split = SplitGenerator(copy.deepcopy(pack.generator()).to(device), proxy.resolution)
    condition = get_condition(config.condition, pack.palette())
    segmenter = rearranger = discriminator = None
    if config.cycle > 0 and not condition.needs_labels and SEGMENTER not in pack.info["files"]:
        raise InputError(f"pack {pack.name!r} has no segmenter that could see parts in pictures; train with --cycle 0")
    if condition.needs_labels or config.cycle > 0:
        segmenter = copy.deepcopy(pack.segmenter()).to(device)
    if config.cycle > 0:
        rearranger = copy.deepcopy(pack.rearranger()).to(device)
    if config.cycle > 0 and config.natural > 0:
        if DISCRIMINATOR not in pack.info["files"]:
            raise InputError(f"pack {pack.name!r} has no discriminator; train with --natural 0")
        discriminator = copy.deepcopy(pack.discriminator()).to(device)
    first = None if start.pack is None else start.pack.mapper(config.condition)
    return MapperTraining(
        split, proxy, condition, segmenter, config, rearranger, discriminator, scale, first, start.name
    )


def train_pack_mapper(
    pack_path: str, run: Path, config: MapperConfig, device: str = "cpu", tick: float = TICK, resume_from: str = ""
) -> dict[str, float]:
    """Train the mapper of one condition for a pack and write it into the pack; returns the scores.

    ``resume_from`` names a pack whose mapper of that condition is trained on: one of the same size, or of a smaller
    one if ``config.widths`` ends with its widths.
    """
    scale, pack = make_scale(device, config.precision, 1), load_pack(pack_path)
    start = origin_of(resume_from, run)
    training = mapper_training(pack, config, scale.device, scale, start)
    scores = run_training(training, run, tick)
    if scale.main:
        net, relpath = training.ema, mapper_file(config.condition)
        facts = facts_of(config, scores, scale.processes) | start.history(relpath, pack.path, run)
        write_component(pack.path, relpath, net.state_dict(), {"kind": "mapper", "args": net.config}, facts)
        start.credit(pack.path)
    return scores
