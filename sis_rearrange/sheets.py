"""Contact sheets of a pack: its samples, their proxy masks, and drawings in many looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from sis_rearrange.conditions import cluster_palette
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.images import contact_sheet
from sis_rearrange.pack import Pack
from sis_rearrange.sampling import check_psi
from sis_rearrange.tensors import to_uint8

PAIRS = 4  # samples per row of the proxy sheet, each beside its mask


@torch.inference_mode()
def proxy_sheet(
    pack: Pack, seeds: Sequence[int], psi: float = 0.9, progress: Callable[[int], None] | None = None
) -> Image.Image:
    """Samples beside their proxy masks, `PAIRS` to a row. ``progress`` gets 1 per sample."""
    proxy = pack.proxy()
    split = SplitGenerator(pack.generator(), proxy.resolution)
    palette = cluster_palette(proxy.K)
    cells: list[Image.Image] = []
    for seed in seeds:
        ws = sample_ws(split.generator, [seed], check_psi(psi))
        feature_map, skip = split.g1(ws)
        picture = Image.fromarray(to_uint8(split.g2(feature_map, skip, ws))[0])
        cells += [picture, palette.to_image(proxy.labels(feature_map)[0].numpy())]
        if progress is not None:
            progress(1)
    rows = [cells[at : at + 2 * PAIRS] for at in range(0, len(cells), 2 * PAIRS)]
    titles = ["seeds " + ", ".join(map(str, seeds[at : at + PAIRS])) for at in range(0, len(seeds), PAIRS)]
    title = f"{pack.name}: samples and their proxy masks, {proxy.K} clusters at {proxy.resolution} x {proxy.resolution}"
    return contact_sheet(rows, titles, title=title)


def sample_sheet(pictures: Sequence[Image.Image], title: str, columns: int = 8) -> Image.Image:
    """Pictures in reading order."""
    return contact_sheet([pictures[at : at + columns] for at in range(0, len(pictures), columns)], title=title)


def synthesis_sheet(
    looks: Sequence[tuple[str, Image.Image]],  # name and picture of every look
    rows: Sequence[tuple[str, Sequence[Image.Image]]],  # name of a drawing; the drawing, its proxy mask, the results
    title: str,
) -> Image.Image:
    """Drawings down, looks across; the looks themselves stand on top of their columns."""
    header: list[Image.Image | None] = [None, None, *(picture for _, picture in looks)]
    return contact_sheet(
        [header, *(row for _, row in rows)],
        ["look", *(name for name, _ in rows)],
        ["drawing, as read", "proxy mask", *(name for name, _ in looks)],
        title=title,
    )
