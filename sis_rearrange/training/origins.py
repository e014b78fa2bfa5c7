"""What a training starts from: another pack's networks, their name in its settings, their attribution in the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sis_rearrange.errors import InputError
from sis_rearrange.pack import Pack, load_pack
from sis_rearrange.pack_files import update_info
from sis_rearrange.proxy import ProxyClusters
from sis_rearrange.training.states import stored_states

FOLLOWING = 0.5  # share of clusters that must be nearest to the ones of the same number


@dataclass(frozen=True)
class Origin:
    """The pack that a training starts from."""

    name: str = ""  # last part of what was asked for: part of a run's settings; "": from nothing
    pack: Pack | None = None  # None too where a run goes on and that pack is gone

    @property
    def facts(self) -> dict[str, Any]:
        """For the provenance of what is made from it."""
        return {"from": self.name} if self.name else {}

    def history(self, relpath: str, pack: Path, run: Path) -> dict[str, Any]:
        """For the provenance of the file ``relpath`` of ``pack``, made by ``run``: its start, and what made that."""
        return self.facts | {"run": run.name} | stages_before(self.name, self.pack, relpath, pack, run)

    def check_clusters(self, clusters: ProxyClusters) -> None:
        """InputError where ``clusters`` are not the origin's, moved: its networks know those by their numbers.

        Clusters that differ in number or channels are not looked at: the networks themselves do not fit then.
        """
        if self.pack is None:
            return
        theirs = self.pack.proxy().centroids
        if theirs.shape != clusters.centroids.shape:
            return
        nearest_one = torch.cdist(clusters.centroids.cpu(), theirs.cpu()).argmin(dim=1)
        share = (nearest_one == torch.arange(len(theirs))).double().mean().item()
        if share < FOLLOWING:
            raise InputError(
                f"--resume-from {self.name}: knows its own clusters, and {share:.0%} of this pack's follow them; fit"
                f" these anew from those: train_rearranger.py --resume-from {self.name} --refit-proxy"
            )

    def credit(self, path: Path) -> None:
        """Add what the origin's licences ask for to the pack in the folder ``path``."""
        if self.pack is None:
            return
        own = load_pack(path, verify=False).info["licences"]
        more = inherited_licences(self.pack, own)
        if more:
            update_info(path, {"licences": [*own, *more]})


NOTHING = Origin()


def origin_of(source: str, run: Path) -> Origin:
    """The pack that ``source`` names; InputError where there is none, unless the run in the folder ``run`` goes on."""
    if not source:
        return NOTHING
    try:
        return Origin(Path(source).name, load_pack(source))
    except InputError:
        if stored_states(run):  # what it started from is in there
            return Origin(Path(source).name)
        raise


def stages_before(source: str, opened: Pack | None, relpath: str, pack: Path, run: Path) -> dict[str, Any]:
    """``before``: what the pack ``source`` says of its file ``relpath``; so stages are told, back to the first.

    ``opened``: that pack, None where it is none or gone. Where the run has written into ``pack`` already, that stays as
    it was told then: the source may be gone by now, or be ``pack`` itself.
    """
    there = load_pack(pack, verify=False).info["provenance"].get(relpath, {})
    if source and (there.get("from"), there.get("run")) == (source, run.name):
        said = there.get("before")
    else:
        said = None if opened is None else opened.info["provenance"].get(relpath)
    return {"before": said} if said else {}


def inherited_licences(pack: Pack, own: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Licences of a pack whose weights a training starts from, but for those that are there: results need them too."""
    given = {(each["licence"], each["credit"]) for each in own}
    licences = [each for each in pack.info["licences"] if (each["licence"], each["credit"]) not in given]
    return [each | {"what": f"the weights of {pack.name}, which training started from"} for each in licences]
