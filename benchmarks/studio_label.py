#!/usr/bin/env python
"""How long it takes the studio to make a model of one painted sample: from the press of "train" to the first picture.

python benchmarks/studio_label.py toonhead --sheet out/learnt.png

The requests are those of the page's Label tab. The sample is "painted" with what the pack's segmenter sees in it.
"""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
from machine import describe
from PIL import Image

from sis_rearrange.cli.options import OneLine
from sis_rearrange.errors import InputError
from sis_rearrange.images import contact_sheet, write_png
from sis_rearrange.pack import load_pack
from sis_rearrange.studio.server import Running

ENLARGED = 4  # people paint on an enlarged sample
LOOKS = (3, 7, 12)  # seeds of the looks that the learnt drawings are shown in


def call(url: str, operation: str, **request: Any) -> dict[str, Any]:
    """One request to the studio."""
    asked = urllib.request.Request(
        f"{url}studio/api/{operation}", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:  # whose text is the server's one line
        raise InputError(f"{operation}: {error.read().decode(errors='replace')}") from None
    return found


def decoded(text: str) -> Image.Image:
    """A picture of an answer."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def encoded(picture: Image.Image) -> str:
    """A picture as requests hold it."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def train(url: str, seed: int) -> tuple[dict[str, Any], float]:
    """The answer of the training on one sample, and the seconds from the request to it."""
    parts = [{key: part[key] for key in ("name", "colour")} for part in call(url, "describe")["parts"]]
    mask = decoded(call(url, "start", look={"seed": seed})["part_mask"])
    mask = mask.resize((ENLARGED * mask.width, ENLARGED * mask.height), Image.Resampling.NEAREST).convert("RGB")
    started, said = time.monotonic(), ""
    job = call(url, "label_train", seed=seed, mask=encoded(mask), classes=parts)["job"]
    while True:
        state = call(url, "job", id=job)
        if state["message"] != said:
            said = state["message"]
            click.echo(f"{time.monotonic() - started:6.1f} s  {said}", err=True)
        if state["state"] == "failed":
            raise InputError(f"the training failed: {state['message']}")
        if state["state"] not in ("queued", "running"):
            return state["reply"], time.monotonic() - started
        time.sleep(0.25)


@click.command(cls=OneLine)
@click.argument("pack_name", metavar="PACK", default="toonhead")
@click.option("--seed", default=1, show_default=True, help="The sample that is painted.")
@click.option("--sheet", type=click.Path(path_type=Path), help="A contact sheet of the pack's drawings in three looks.")
def main(pack_name: str, seed: int, sheet: Path | None) -> None:
    """Time the Label tab of the studio on PACK."""
    pack = load_pack(pack_name)
    masks = [Image.open(pack.file(name)) for name in pack.drawings() if "/segmentation-" in name]
    with Running([pack], port=0, warm=True) as running:
        learnt, seconds = train(running.url, seed)
        started, rows = time.monotonic(), []
        for mask in masks:
            row = [mask.convert("RGB")]
            for look in LOOKS:
                asked = {"look": {"seed": look}, "condition": learnt["condition"], "drawing": encoded(mask)}
                row.append(decoded(call(running.url, "render", **asked)["image"]))
            rows.append(row)
        drawn = (time.monotonic() - started) / max(1, len(masks) * len(LOOKS))
    if sheet is not None and rows:
        title = f"{pack.name}: a mapper from one painted sample, {seconds:.0f} s"
        columns = ["drawing", *(f"look {look}" for look in LOOKS)]
        write_png(sheet, contact_sheet(rows, column_titles=columns, title=title))
    found = {
        "what": "one painted sample to a model that draws, seconds",
        "pack": pack.name,
        "training": round(seconds, 1),
        "a picture": round(drawn, 3),
        "machine": describe(),
    }
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
