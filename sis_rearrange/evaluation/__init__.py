"""Scores of a domain pack: what it was promised to do, measured on samples and renders that nothing was trained on."""

from __future__ import annotations

from sis_rearrange.evaluation.protocol import COMPONENTS, FULL, QUICK, Protocol, evaluate_pack
from sis_rearrange.evaluation.report import BOUNDS, failures, format_report

__all__ = ["BOUNDS", "COMPONENTS", "FULL", "QUICK", "Protocol", "evaluate_pack", "failures", "format_report"]
