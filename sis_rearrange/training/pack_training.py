"""Train the parts of a domain pack and write them into it, with where they are from."""

from __future__ import annotations

import copy
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sis_rearrange import __version__
from sis_rearrange.conditions import get_condition
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator
from sis_rearrange.pack import DISCRIMINATOR, PROXY, REARRANGER, Pack, load_pack, mapper_file, write_component
from sis_rearrange.proxy import ProxyClusters, fit_proxy
from sis_rearrange.sampling import pick_device
from sis_rearrange.training.generator import GeneratorConfig
from sis_rearrange.training.mapper import MapperConfig, MapperTraining
from sis_rearrange.training.rearranger import TRAIN_SEEDS, RearrangerConfig, RearrangerTraining
from sis_rearrange.training.run import TICK, run_training

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


def facts_of(config: RearrangerConfig | MapperConfig | GeneratorConfig, scores: Mapping[str, float]) -> dict[str, Any]:
    """Provenance of a training; its ``minutes`` stand where `evaluation.latency` looks for them."""
    rounded = {name: round(value, 4) for name, value in scores.items() if name != "minutes"}
    settings = json.loads(json.dumps(asdict(config)))
    return provenance(config=settings, seed=config.seed, minutes=round(scores["minutes"], 2), scores=rounded)


def fitted_proxy(
    pack: Pack, tap: int, num_clusters: int, samples: int, psi: float, device: torch.device
) -> ProxyClusters:
    """Proxy clusters of a pack's generator; the pack stays as it is. InputError for numbers that make no sense."""
    if not 1 <= samples <= len(PROXY_SEEDS):
        raise InputError(f"--proxy-samples {samples}: must be 1 to {len(PROXY_SEEDS)}")
    if not 2 <= num_clusters <= 256:  # proxy masks travel as 8-bit index PNGs
        raise InputError(f"--clusters {num_clusters}: must be 2 to 256")
    try:
        split = SplitGenerator(copy.deepcopy(pack.generator()).to(device), tap)
    except ValueError as error:
        raise InputError(f"--tap {tap}: {error}") from None
    with tqdm(total=samples, desc="proxy clusters", unit="sample", dynamic_ncols=True, disable=None) as bar:
        return fit_proxy(split, num_clusters, PROXY_SEEDS[:samples], psi=psi, progress=bar.update)


def fit_pack_proxy(pack: Pack, tap: int, num_clusters: int, samples: int, psi: float, device: torch.device) -> Pack:
    """Fit proxy clusters for a pack's generator, write them into the pack, and open it anew."""
    proxy = fitted_proxy(pack, tap, num_clusters, samples, psi, device)
    config = {"kind": "proxy", "args": proxy.config, "psi": psi}
    # Centroids stay in full precision: a label near a border must not depend on rounding
    write_component(pack.path, PROXY, proxy.state_dict(), config, provenance(samples=samples, psi=psi), half=False)
    return load_pack(pack.path)


def rearranger_training(
    pack: Pack, config: RearrangerConfig, device: torch.device, proxy: ProxyClusters | None = None
) -> RearrangerTraining:
    """The training of a pack's rearranger for its clusters, or for others; InputError where the pack lacks a part."""
    proxy = copy.deepcopy(proxy or pack.proxy()).to(device)
    split = SplitGenerator(copy.deepcopy(pack.generator()).to(device), proxy.resolution)
    discriminator = None
    if config.weights.adversarial > 0:
        if DISCRIMINATOR not in pack.info["files"]:
            raise InputError(f"pack {pack.name!r} has no discriminator; train with --adversarial 0")
        discriminator = copy.deepcopy(pack.discriminator()).to(device)
    segmenter = copy.deepcopy(pack.segmenter()).to(device) if config.weights.parts > 0 else None
    return RearrangerTraining(split, proxy, discriminator, segmenter, config)


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
) -> dict[str, float]:
    """Fit the proxy clusters where the pack has none, train its rearranger, write both; returns the scores.

    ``tap``, ``num_clusters`` and ``proxy_samples`` are used only where the clusters are fitted.
    """
    pack, where = load_pack(pack_path), pick_device(device)
    if refit_proxy or PROXY not in pack.info["files"]:
        pack = fit_pack_proxy(pack, tap, num_clusters, proxy_samples, config.psi, where)
    training = rearranger_training(pack, config, where)
    scores = run_training(training, run, tick)
    net, facts = training.ema, facts_of(config, scores)
    write_component(pack.path, REARRANGER, net.state_dict(), {"kind": "rearranger", "args": net.config}, facts)
    return scores


def rearranger_dry_run(
    pack_path: str, config: RearrangerConfig, tap: int, num_clusters: int, refit_proxy: bool, device: str
) -> RearrangerTraining:
    """The training that `train_pack_rearranger` would run, but for clusters of few samples where those are missing."""
    pack, where = load_pack(pack_path), pick_device(device)
    proxy = None
    if refit_proxy or PROXY not in pack.info["files"]:
        proxy = fitted_proxy(pack, tap, num_clusters, 4 * num_clusters, config.psi, where)
    return rearranger_training(pack, replace(config, guide_samples=min(64, config.guide_samples)), where, proxy)


def mapper_training(pack: Pack, config: MapperConfig, device: torch.device) -> MapperTraining:
    """The training of a pack's mapper; InputError where the pack lacks clusters, segmenter or rearranger it needs."""
    proxy = copy.deepcopy(pack.proxy()).to(device)
    split = SplitGenerator(copy.deepcopy(pack.generator()).to(device), proxy.resolution)
    condition = get_condition(config.condition, pack.palette())
    segmenter = rearranger = discriminator = None
    if condition.needs_labels or config.cycle > 0:
        segmenter = copy.deepcopy(pack.segmenter()).to(device)
    if config.cycle > 0:
        rearranger = copy.deepcopy(pack.rearranger()).to(device)
    if config.cycle > 0 and config.natural > 0:
        if DISCRIMINATOR not in pack.info["files"]:
            raise InputError(f"pack {pack.name!r} has no discriminator; train with --natural 0")
        discriminator = copy.deepcopy(pack.discriminator()).to(device)
    return MapperTraining(split, proxy, condition, segmenter, config, rearranger, discriminator)


def train_pack_mapper(
    pack_path: str, run: Path, config: MapperConfig, device: str = "cpu", tick: float = TICK
) -> dict[str, float]:
    """Train the mapper of one condition for a pack and write it into the pack; returns the scores."""
    pack = load_pack(pack_path)
    training = mapper_training(pack, config, pick_device(device))
    scores = run_training(training, run, tick)
    net, facts = training.ema, facts_of(config, scores)
    write_component(
        pack.path, mapper_file(config.condition), net.state_dict(), {"kind": "mapper", "args": net.config}, facts
    )
    return scores
