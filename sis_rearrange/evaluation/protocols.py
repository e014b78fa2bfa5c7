"""The protocols by name. Each takes an opened pack and a `Request`, and returns an `Outcome` (see ``outcome``).

The functions import what they need when they run: one protocol's libraries are not the others' burden.
"""

from __future__ import annotations

from sis_rearrange.errors import InputError, nearest
from sis_rearrange.evaluation.outcome import Outcome, Request, Run
from sis_rearrange.pack import Pack


def run_main(pack: Pack, request: Request) -> Outcome:
    """What the pack was promised to do, with bounds: rearranger, drawings, distance, latency."""
    from sis_rearrange.evaluation.protocol import main_outcome

    return main_outcome(pack, request)


def run_quality(pack: Pack, request: Request) -> Outcome:
    """Pictures against pictures: KID, precision, recall, perceptual distance, style, judged parts; with intervals."""
    from sis_rearrange.evaluation.quality import quality_outcome

    return quality_outcome(pack, request)


def run_reliability(pack: Pack, request: Request) -> Outcome:
    """Whether the mappers' confidence is what it says: expected calibration error and reliability plot."""
    from sis_rearrange.evaluation.reliability import reliability_outcome

    return reliability_outcome(pack, request)


def run_few_shot(pack: Pack, request: Request) -> Outcome:
    """The paper's table: mIoU and distance at N annotated samples, beside every baseline; what is done is kept."""
    from sis_rearrange.evaluation.few_shot_report import few_shot_outcome

    return few_shot_outcome(pack, request)


def run_conditions(pack: Pack, request: Request) -> Outcome:
    """Proxy agreement of every mapper, and what share of the segmentation mapper's it is."""
    from sis_rearrange.evaluation.condition_agreement import conditions_outcome

    return conditions_outcome(pack, request)


PROTOCOLS: dict[str, Run] = {
    "main": run_main,
    "quality": run_quality,
    "reliability": run_reliability,
    "few-shot": run_few_shot,
    "conditions": run_conditions,
}


def get_protocol(name: str) -> Run:
    """The protocol of a name; InputError with the nearest name for another."""
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}{nearest(name, PROTOCOLS)} (there are {', '.join(PROTOCOLS)})")
    return PROTOCOLS[name]
