"""How many training pictures a second come from a zip that `sis data prepare` made, and from the JPEGs it was made of.

    python benchmarks/reading.py --pictures 400 --workers 2

The JPEGs are made up (structure at all scales and a camera's noise, 512 pixels, quality 90). "one process" is what
reading, checking against the hash and decoding cost, per second of processor time; "feed" is what a training gets from
its worker processes, as float32 batches. A training never waits as long as it needs fewer than the feed gives: its own
log says so, too ("waiting", the share of a step's time).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

from sis_rearrange.data.prepare import Settings, prepare
from sis_rearrange.training.sources import Feed, ImageFiles

SOURCE, BATCH = 512, 16


def photo(seed: int) -> Image.Image:
    """A picture as hard to compress as a photo."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SOURCE, SOURCE, 3))
    for cells in (2, 4, 8, 16, 32, 64, 128):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((SOURCE, SOURCE), Image.Resampling.BICUBIC), float) / cells**0.7
    total = (total - total.min()) / np.ptp(total) * 255 + rng.normal(0, 6, total.shape)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def rates(files: ImageFiles, count: int, workers: int) -> tuple[float, float]:
    """Pictures a second: of processor time in this process, and of time from a feed (its start not counted)."""
    files[0]
    begin = time.process_time()  # a busy machine does not change it
    for number in range(count):
        files[number]
    alone = count / (time.process_time() - begin)
    feed = Feed(files, BATCH, workers)
    feed.take(0)
    begin = time.perf_counter()
    batches = max(8 * workers, count // BATCH)  # more than are prepared ahead
    for batch in range(1, batches + 1):
        feed.take(batch * BATCH)
    fed = batches * BATCH / (time.perf_counter() - begin)
    feed.close()
    return alone, fed


@click.command()
@click.option("--pictures", default=400, show_default=True, help="How many JPEGs to make up.")
@click.option("--workers", default=2, show_default=True, help="Processes of the feed.")
def main(pictures: int, workers: int) -> None:
    """Print pictures a second for both sources at 64 and 256 pixels."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for number in range(pictures):
            photo(number).save(folder / f"{number:05d}.jpg", quality=90)
        click.echo(f"{'':34}{'one process':>14}{f'feed, {workers} workers':>18}   pictures/s")
        for resolution in (64, 256):
            packed = Path(place) / f"{resolution}.zip"
            begin = time.perf_counter()
            prepare([folder], packed, Settings(resolution), workers)
            took = pictures / (time.perf_counter() - begin)
            for what, path in (("JPEGs of 512 px", folder), (f"prepared, {packed.stat().st_size >> 10} KiB", packed)):
                alone, fed = rates(ImageFiles(path, resolution), pictures, workers)
                click.echo(f"{resolution:4} px from {what:22}{alone:14.0f}{fed:18.0f}")
            click.echo(f"{resolution:4} px: preparing {took:.0f} pictures/s")


if __name__ == "__main__":
    main()
