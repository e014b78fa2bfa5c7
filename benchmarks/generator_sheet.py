#!/usr/bin/env python
"""What a toonhead generator draws: distance to renders against kimg, samples beside renders, and every shape it knows.

The shapes (five mouths, four haircuts, ...) are told apart by a small network that learns them from renders first; its
accuracy on renders that it has not seen is printed. A shape counts as drawn where it is surer than 0.9.

python benchmarks/generator_sheet.py packs/sharp128 --against toonhead --run runs/heads64 --run runs/heads128
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from sis_rearrange.cli.options import OneLine, open_pack
from sis_rearrange.domains import SPLITS, get_domain, render_many, split_indices
from sis_rearrange.domains.toonhead import shapes
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.networks import parts
from sis_rearrange.features import sample_ws
from sis_rearrange.images import contact_sheet, write_bytes, write_png
from sis_rearrange.pack import SEGMENTER, Pack
from sis_rearrange.tensors import from_uint8, to_uint8
from sis_rearrange.training.distance import BATCH, SEEDS, judge_of
from sis_rearrange.training.states import newest_state
from sis_rearrange.weights import decode_weights

SIDE = 64  # pixels at which shapes are told apart
LAYERS = ("hair", "rearHair", "eyes", "eyebrows", "mouth", "beard", "clothes")
SCORE = "score/judge_frechet"
FLAT = 0.02  # of a range of 2, over three channels
NONE = "none"  # where a picture has nothing of a layer
SURE = 0.9
FIRST = SPLITS["train"].stop - 50_000  # of the renders that shapes are learnt from
Shapes = dict[str, list[str]]


class Reader(nn.Module):
    """Logits of every layer's shapes for pictures ``[N, 3, SIDE, SIDE]``."""

    def __init__(self, known: Shapes) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1), nn.ReLU())
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3))
        self.heads = nn.ModuleDict({layer: nn.Linear(widths[-1] * 16, len(known[layer])) for layer in LAYERS})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """By layer ``[N, shapes]``."""
        x = self.body(images)
        return {layer: head(x) for layer, head in self.heads.items()}


def labels_of(indices: Sequence[int], known: Shapes) -> dict[str, torch.Tensor]:
    """By layer, the number of each render's shape, int64 ``[N]``."""
    found = [shapes(index) for index in indices]
    return {layer: torch.tensor([known[layer].index(each.get(layer, NONE)) for each in found]) for layer in LAYERS}


def learn(count: int, steps: int) -> tuple[Reader, Shapes, dict[str, float]]:
    """The reader, the shapes there are, and by layer its accuracy on held-out renders."""
    domain, indices = get_domain("toonhead"), range(FIRST, FIRST + count)
    of_each = [shapes(index) for index in indices]
    known: Shapes = {layer: sorted({each.get(layer, NONE) for each in of_each}) for layer in LAYERS}
    pictures, _ = render_many(domain, indices, SIDE, 2, "rendering")
    images, labels = from_uint8(pictures), labels_of(indices, known)
    torch.manual_seed(0)
    reader = Reader(known)
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in tqdm(range(steps), desc="learning shapes", disable=None):
        at = torch.randint(count, [64], generator=torch.Generator().manual_seed(step))
        batch = images[at] + 0.1 * torch.randn(len(at), 3, 1, 1) + 0.05 * torch.randn(len(at), 3, SIDE, SIDE)
        loss = torch.stack([F.cross_entropy(x, labels[layer][at]) for layer, x in reader(batch).items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
    held_out = split_indices("val", 500)
    wanted = labels_of(held_out, known)
    with torch.inference_mode():
        seen = reader.eval()(from_uint8(render_many(domain, held_out, SIDE, 2)[0]))
    return reader, known, {layer: (seen[layer].argmax(1) == wanted[layer]).float().mean().item() for layer in LAYERS}


def samples(pack: Pack, seeds: Sequence[int]) -> Iterator[torch.Tensor]:
    """Plain pictures in batches, in [-1, 1]."""
    for at in range(0, len(seeds), BATCH):
        with torch.inference_mode():
            ws = sample_ws(pack.generator(), seeds[at : at + BATCH], 1.0)
            yield pack.generator().synthesis(ws).clamp(-1, 1)


def shapes_sheet(pack: Pack, count: int, renders: int, steps: int) -> Image.Image:
    """For each layer a render of every shape, and under it the sample that shows it most clearly; prints the shares."""
    reader, known, accuracy = learn(renders, steps)
    best: dict[tuple[str, int], tuple[float, Image.Image]] = {}
    counts = {layer: torch.zeros(len(known[layer])) for layer in LAYERS}
    for images in tqdm(samples(pack, SEEDS[:count]), total=-(-count // BATCH), desc="reading samples", disable=None):
        with torch.inference_mode():
            found = reader(F.adaptive_avg_pool2d(images, SIDE))
        for layer, logits in found.items():
            share = logits.softmax(dim=1)
            counts[layer] += torch.bincount(share.argmax(1)[share.amax(1) > SURE], minlength=share.shape[1])
            for shape, (value, at) in enumerate(zip(*share.max(dim=0), strict=True)):
                if value > best.get((layer, shape), (0.0, None))[0]:
                    best[layer, shape] = value.item(), Image.fromarray(to_uint8(images[at : at + 1])[0])
    rows, titles = [], []
    for layer in LAYERS:
        parts = ", ".join(f"{name} {int(n)}" for name, n in zip(known[layer], counts[layer], strict=True))
        click.echo(f"{layer}: {parts} of {count}; reader right on {100 * accuracy[layer]:.0f} % of renders")
        rows.append(example_row(layer, known[layer], pack.resolution))
        rows.append([best[layer, shape][1] for shape in range(len(known[layer]))])
        titles += [f"{layer}, renders", f"{layer}, samples"]
    return contact_sheet(rows, titles, cell=96, label_columns=(), title=f"{pack.name}: every shape of the style")


def example_row(layer: str, known: Sequence[str], side: int) -> list[Image.Image]:
    """A held-out render of each shape."""
    domain, found = get_domain("toonhead"), []
    for shape in known:
        index = next(i for i in SPLITS["test"] if shapes(i).get(layer, NONE) == shape)
        found.append(Image.fromarray(domain.picture(index, side)))
    return found


def beside_renders(pack: Pack) -> Image.Image:
    """Rows of renders and rows of samples, taking turns."""
    renders, _ = render_many(get_domain("toonhead"), split_indices("test", 24), pack.resolution, 2)
    made = np.concatenate([to_uint8(images) for images in samples(pack, SEEDS[:24])])
    rows = [[Image.fromarray(x) for x in some[at : at + 8]] for at in (0, 8, 16) for some in (renders, made)]
    return contact_sheet(rows, ["renders", "samples"] * 3, cell=96, label_columns=(), title=f"{pack.name}: psi 1")


def curve(runs: Sequence[Path], reference: float | None) -> bytes:
    """The distance as it was scored in training against kimg, one run after another, and what is to be beaten; PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    seen, names = 0.0, set()
    for run in runs:
        state = newest_state(run, click.echo)
        if state is None:
            raise InputError(f"{run}: holds no state of a training")
        about, _ = decode_weights(state, str(run))
        kimg = about["settings"]["batch"] / 1000
        lines = [json.loads(line) for line in (run / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
        scores = [(line["step"], key, line[key]) for line in lines for key in line if key.startswith(SCORE)]
        if not scores:
            raise InputError(f"{run}: this run scored no samples (train_generator.py --score-samples)")
        steps, found, values = zip(*scores, strict=True)
        names |= set(found)
        shown = {"patches": "patch_weight", "R1": "gamma"}
        words = [f"{word} {about['settings'][key]:g}" for word, key in shown.items() if about["settings"].get(key)]
        label = ", ".join([f"{about['settings']['resolution']} px", *words])
        axes.plot([seen + step * kimg for step in steps], values, "o-", markersize=3, label=label)
        seen += about["progress"]["step"] * kimg
    if reference is not None:
        for value, text in ((reference, "the generator it is compared with"), (reference / 2, "half of that")):
            axes.axhline(value, linestyle="--", linewidth=1, color="grey")
            axes.annotate(text, (0, value), fontsize=7, va="bottom")
    scale = ", ".join(sorted(name.removeprefix("score/") for name in names))
    axes.set(xlabel="thousand pictures", ylabel=scale, xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def flat_share(images: torch.Tensor) -> float:
    """Share of neighbours in pictures ``[N, 3, H, W]`` whose colours differ by less than `FLAT` in all."""
    pairs = (images[..., 1:] - images[..., :-1]).abs().sum(1), (images[..., 1:, :] - images[..., :-1, :]).abs().sum(1)
    return torch.cat([pair.flatten() for pair in pairs]).lt(FLAT).float().mean().item()


def drift(images: torch.Tensor, background: torch.Tensor) -> float:
    """Mean distance of backgrounds ``[N, H, W]`` bool from their median colour, in levels of the channel furthest off.

    Pictures ``[N, 3, H, W]`` in [-1, 1]. A pixel along the border of each background is not looked at.
    """
    inner = -F.max_pool2d(-F.pad(background[:, None].float(), (1, 1, 1, 1), value=1.0), 3, 1)
    found = []
    for image, inside in zip(images, inner[:, 0] > 0, strict=True):
        colours = image[:, inside]
        if colours.numel():
            off = (colours - colours.median(dim=1, keepdim=True).values).abs().amax(dim=0)
            found.append(off.mean().item() * 127.5)
    return float(np.mean(found))


def distance(pack: Pack, judge: str, side: int, count: int, cache: Path) -> float:
    """Between a generator's samples and the val split, in the features of a pack's judge."""
    measure = judge_of(judge, get_domain("toonhead"), count, side, cache / f"val-{side}.npz", 2)
    assert measure is not None
    return measure.score(lambda seeds: next(samples(pack, seeds)))


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("pack_name", metavar="PACK")
@click.option("--against", help="Pack whose generator is to be beaten, and whose judge looks; none: no distances.")
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Run folder, for the curve; of several that follow on each other the first first.",
)
@click.option("--samples", "count", default=5000, help="Of each generator.")
@click.option("--renders", default=8000, help="That shapes are learnt from.")
@click.option("--steps", default=1200, help="Of learning them.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/generator"), help="Folder for the pictures.")
def main(
    pack_name: str, against: str | None, runs: tuple[Path, ...], count: int, renders: int, steps: int, out: Path
) -> None:
    """Print distances and shares of shapes, and write the sheets and the curve of a toonhead pack."""
    pack = open_pack(pack_name)
    reference = None
    if against is not None:
        other = open_pack(against)
        with tempfile.TemporaryDirectory() as cache:
            sides: Mapping[Pack, int] = {pack: pack.resolution, other: other.resolution}
            found = {each: distance(each, against, side, count, Path(cache)) for each, side in sides.items()}
        reference = found[other]
        for each, value in found.items():
            click.echo(f"judge distance of {count} samples of {each.name}, {each.resolution} px: {value:.3f}")
        click.echo(f"times smaller: {reference / found[pack]:.2f}")
    if runs:
        write_bytes(out / f"{pack.name}-curve.png", curve(runs, reference))
    renders_of, masks = render_many(get_domain("toonhead"), split_indices("test", 64), pack.resolution, 2)
    both = torch.cat(list(samples(pack, SEEDS[:64]))), from_uint8(renders_of)
    flat = [flat_share(images) for images in both]
    click.echo(f"neighbouring pixels of one colour: samples {flat[0]:.3f}, renders {flat[1]:.3f}")
    if SEGMENTER in pack.info["files"]:
        seen = parts(pack.segmenter(), both[0]), torch.from_numpy(masks)
        off = [drift(images, labels == 0) for images, labels in zip(both, seen, strict=True)]
        click.echo(f"backgrounds from their median colour, levels of 255: samples {off[0]:.2f}, renders {off[1]:.2f}")
    write_png(out / f"{pack.name}-renders.png", beside_renders(pack))
    write_png(out / f"{pack.name}-shapes.png", shapes_sheet(pack, count, renders, steps))
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
