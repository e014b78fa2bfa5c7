"""Plots of the reports, where people rather look than read; matplotlib draws them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sis_rearrange.errors import InputError
from sis_rearrange.metrics import Bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, INK = "#b8bcc4", "#2f6fb0", "#373c44"
SIDE = 3.4  # inches of a panel


def need_matplotlib() -> None:
    """InputError where matplotlib is missing: better before the measurements than after."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'sis_rearrange[eval]'") from None


def reliability_plot(found: Mapping[str, tuple[Bins, Bins]], title: str) -> bytes:
    """PNG: for each condition how often the mapper was right against how sure it was, before and after calibration.

    The bars at the bottom are the share of cells in each bin, after calibration.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIDE * len(found), SIDE + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, (before, after)) in zip(panels, found.items(), strict=True):
        _panel(axes, name, before, after)
    panels[0].set_ylabel("share of cells with the right cluster")
    panels[0].legend(loc="upper left", fontsize=8, frameon=False)
    return png(figure)


def _panel(axes: Axes, name: str, before: Bins, after: Bins) -> None:
    axes.plot([0, 1], [0, 1], color="#d0d3d9", linewidth=1, zorder=0)
    share = after.cells / max(after.cells.sum(), 1)
    edges = np.arange(len(share)) / len(share)
    axes.bar(edges, share, 1 / len(share), align="edge", color="#e6ecf3", zorder=0, label="share of cells")
    for bins, colour, label in ((before, BEFORE, "as trained"), (after, AFTER, "calibrated")):
        filled = bins.cells > 0
        axes.plot(bins.confidence[filled], bins.accuracy[filled], "o-", color=colour, markersize=4, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence")
    axes.set_title(f"{name}\nECE {before.error:.3f} as trained, {after.error:.3f} calibrated", fontsize=9, color=INK)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file; same figure, same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()
