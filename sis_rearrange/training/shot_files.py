"""Annotated pictures as files: samples to paint on go out, painted masks come in.

A folder holds pairs NAME.png and NAME_mask.png, and ``classes.json``, the palette (where it is missing, the pack's).
``NAME.json``, or else the PNG's own text entries, say which sample a picture is. A picture without either is taken for
a real one and inverted. Masks are index, palette or RGB PNGs of any size; white, transparent and 255 are unpainted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sis_rearrange.conditions.palette import TOLERANCE, UNPAINTED, Palette
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.images import flatten, label_strip, read_image, write_png, write_text
from sis_rearrange.pack import Pack
from sis_rearrange.proxy import palette as distinct_colours
from sis_rearrange.sampling import check_psi, check_seed, metadata
from sis_rearrange.tensors import to_uint8
from sis_rearrange.training.few_shot import Shot

CLASSES_FILE = "classes.json"
MASK_ENDING = "_mask"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PAINT_SIDE = 512  # pixels of the pictures that people paint on, unless asked otherwise
MAX_SIDE = 4096
FREE = 255  # index of unpainted pixels in the masks written here
MAX_DIFFERENCE = 12.0  # mean levels between a file and the sample it says it is
BACKGROUND = (38, 42, 58)
README = """Paint the parts in {names} in the colours of legend.png, in any editor, without soft brushes.
White stays unpainted and teaches nothing: one clean patch of every part beats an outline that is off everywhere.
Then: {command}
"""


# ---- out -------------------------------------------------------------------------------------------------------------


def export_shots(
    pack: Pack,
    seeds: Sequence[int],
    out: Path,
    psi: float = 0.9,
    scale: int | None = None,  # pixels of the files per pixel of the generator; None: about `PAINT_SIDE` in all
    palette: Palette | None = None,  # None: the pack's
) -> list[Path]:
    """Write samples, empty masks, the legend and a README into a folder; returns the masks to paint.

    A mask that is there already is never overwritten: InputError. InputError also where nobody has named the parts.
    """
    palette = palette or pack.palette()
    if palette is None:
        raise InputError(f"pack {pack.name!r} names no parts; name them, such as --classes background,sky,house")
    _check_paintable(palette)
    check_psi(psi)
    scale = scale or max(1, PAINT_SIDE // pack.resolution)
    side = scale * pack.resolution
    if side > MAX_SIDE:
        raise InputError(f"--scale {scale}: {side} pixels per side are too many; at most {MAX_SIDE}")
    names = [f"seed{check_seed(seed)}" for seed in seeds]
    masks = [out / f"{name}{MASK_ENDING}.png" for name in names]
    for mask in masks:
        if mask.exists():
            raise InputError(f"{mask}: is there already, perhaps painted; remove it or choose another --out")
    kept = out / CLASSES_FILE
    if kept.is_file() and named_palette(str(kept)) != palette:
        raise InputError(f"{kept}: the masks in this folder are of other parts; choose another --out")
    for seed, name, mask in zip(seeds, names, masks, strict=True):
        picture = _sample(pack, seed, psi).resize((side, side), Image.Resampling.LANCZOS)
        write_png(out / f"{name}.png", picture, metadata(pack, seed, psi))
        write_text(out / f"{name}.json", json.dumps({"seed": int(seed), "psi": float(psi)}) + "\n")
        write_png(mask, empty_mask(palette, side))
    hexes = [f"{n} #{r:02x}{g:02x}{b:02x}" for n, (r, g, b) in zip(palette.names, palette.colours, strict=True)]
    write_png(out / "legend.png", label_strip(hexes, palette.colours))
    write_text(kept, palette.to_json() + "\n")
    shown = ", ".join(mask.name for mask in masks[:3]) + (" and so on" if len(masks) > 3 else "")
    command = import_command(pack, str(pack.path), out, palette)
    write_text(out / "README.txt", README.format(names=shown, command=command))
    return masks


def import_command(pack: Pack, called: str, folder: Path, palette: Palette | None) -> str:
    """What to type when the masks are painted; parts other than the pack's need a pack of their own."""
    other = palette is not None and pack.classes not in ((), palette.names)
    return f"sis label import {called} {folder}{' --out packs/mine' if other else ''}"


def _check_paintable(palette: Palette) -> None:
    """InputError where a part looks like what is not painted."""
    for name, colour, value in zip(palette.names, palette.colours, palette.values, strict=True):
        if min(colour) >= FREE - TOLERANCE or value == FREE:
            what = f"index {FREE}" if value == FREE else "white"
            raise InputError(f"part {name!r} is {what}, which marks unpainted pixels; name parts with --classes")


def empty_mask(palette: Palette, side: int) -> Image.Image:
    """A P-mode picture of unpainted pixels whose colour table has the parts; index `FREE` is white."""
    image = Image.new("P", (side, side), FREE)
    table = np.full((256, 3), 255, np.uint8)
    table[list(palette.values)] = palette.colours
    image.putpalette(table.ravel().tolist())
    return image


def named_palette(text: str) -> Palette:
    """Own classes as a palette: a JSON file as `Palette.from_json` reads, a JSON list of names, or "a,b,c".

    Raises InputError for fewer than two names, doubled ones, and a file that holds neither.
    """
    if not text.endswith(".json"):
        return _coloured([name.strip() for name in text.split(",")])
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return _parsed(content, path)


def _parsed(content: str, path: Path) -> Palette:
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError):
        rows = None
    if isinstance(rows, list) and rows and all(isinstance(row, str) for row in rows):
        return _coloured(rows)
    try:
        return Palette.from_json(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _coloured(names: Sequence[str]) -> Palette:
    if not all(names) or len(set(names)) != len(names) or not 2 <= len(names) < FREE:
        raise InputError(f"classes {','.join(names)!r}: give 2 to {FREE - 1} different names, such as background,hair")
    colours = [(int(r), int(g), int(b)) for r, g, b in distinct_colours(len(names))]
    return Palette(
        tuple(names), tuple(BACKGROUND if n == "background" else c for n, c in zip(names, colours, strict=True))
    )


@torch.no_grad()
def _sample(pack: Pack, seed: int, psi: float) -> Image.Image:
    generator = pack.generator()
    return Image.fromarray(to_uint8(generator.synthesis(sample_ws(generator, [seed], psi)))[0])


# ---- in --------------------------------------------------------------------------------------------------------------


def folder_palette(folder: Path, pack: Pack) -> Palette:
    """The parts that a folder's masks are painted in: its ``classes.json``, or the pack's."""
    path = folder / CLASSES_FILE
    if path.is_file():
        return named_palette(str(path))
    palette = pack.palette()
    if palette is None:
        raise InputError(f"{folder}: has no {CLASSES_FILE}, and pack {pack.name!r} names no parts")
    return palette


def shots_from_folder(folder: Path, pack: Pack, palette: Palette | None = None) -> list[Shot]:
    """The annotated pictures of a folder, sorted by name; ``palette`` None: as `folder_palette`.

    Raises InputError, naming the file: no pair, a picture without mask or the other way round, a mask in other colours,
    one with nothing painted, and a picture that is not the sample it says it is.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `sis label export` makes one")
    palette = palette or folder_palette(folder, pack)
    shots = [Shot(_ws_of(picture, pack), _labels(mask, palette, pack.resolution)) for picture, mask in _pairs(folder)]
    return [Shot(shot.ws.clone(), shot.labels) for shot in shots]


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Pictures and their masks."""
    masks = sorted(path for path in folder.iterdir() if path.stem.endswith(MASK_ENDING) and path.suffix == ".png")
    if not masks:
        raise InputError(f"{folder}: no NAME{MASK_ENDING}.png beside a NAME.png; `sis label export` writes such pairs")
    pairs = []
    for mask in masks:
        name = mask.stem.removesuffix(MASK_ENDING)
        found = [folder / f"{name}{suffix}" for suffix in PICTURE_SUFFIXES if (folder / f"{name}{suffix}").is_file()]
        if len(found) != 1:
            problem = "no picture beside it" if not found else f"{len(found)} pictures beside it"
            raise InputError(f"{mask}: {problem}; one of {name}.png, {name}.jpg, ... belongs to it")
        pairs.append((found[0], mask))
    return pairs


def _ws_of(path: Path, pack: Pack) -> torch.Tensor:
    """ws ``[num_ws, w_dim]`` of a picture: of the sample it says it is, or by inversion."""
    about = _origin(path)
    if about is None:
        return _inverted(path, pack)
    try:
        seed, psi = check_seed(int(about["seed"])), check_psi(float(about.get("psi", 0.9)))
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: its seed and psi are not readable ({error}); export the sample again") from None
    side = pack.resolution
    stored = flatten(read_image(path)).resize((side, side), Image.Resampling.BOX)
    difference = np.abs(np.asarray(stored, np.float32) - np.asarray(_sample(pack, seed, psi), np.float32)).mean()
    if difference > MAX_DIFFERENCE:
        raise InputError(
            f"{path}: is not what seed {seed} at psi {psi:g} looks like in pack {pack.name!r} (off by "
            f"{difference:.0f} levels); export it from this pack again"
        )
    with torch.no_grad():
        return sample_ws(pack.generator(), [seed], psi)[0]


def _origin(path: Path) -> dict[str, Any] | None:
    """``seed`` and ``psi`` of a sample: from NAME.json beside it, else from its PNG text; None for a real picture."""
    sidecar = path.with_suffix(".json")
    if sidecar.is_file():
        try:
            about = json.loads(sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            about = None
        if not isinstance(about, dict) or "seed" not in about:
            raise InputError(f'{sidecar}: should say which sample {path.name} is, as {{"seed": 7, "psi": 0.9}}')
        return about
    read_image(path)  # says what is wrong with a file that is no picture
    with Image.open(path) as image:
        info = dict(image.info)  # text entries of a PNG are among it
    return {key: info[key] for key in ("seed", "psi") if key in info} if "seed" in info else None


def _inverted(path: Path, pack: Pack) -> torch.Tensor:
    """ws of a real picture's middle square. The generator is not tuned: its features must stay what they are."""
    from tqdm import tqdm

    from sis_rearrange.inversion import InversionConfig, invert, work

    config = InversionConfig(tune=False)
    with tqdm(total=work(config, pack.resolution), desc=f"inverting {path.name}", disable=None, leave=False) as bar:
        return invert(pack, path, progress=bar.update, config=config).ws


def _labels(path: Path, palette: Palette, side: int) -> torch.Tensor:
    """int64 ``[side, side]``, -1 where most of a cell is unpainted; see `majority`."""
    image = middle_square(read_image(path))
    try:
        painted = palette.read(image, canvas=True).labels
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if (painted == UNPAINTED).all():
        raise InputError(f"{path}: nothing is painted yet; paint the parts in the colours of legend.png")
    return torch.from_numpy(majority(painted, len(palette), side))


def middle_square(image: Image.Image) -> Image.Image:
    """What of a picture is looked at where it is not square."""
    left, top = (max(0, length - min(image.size)) // 2 for length in image.size)
    return image.crop((left, top, left + min(image.size), top + min(image.size)))


def majority(labels: np.ndarray, num_classes: int, side: int) -> np.ndarray:
    """Labels ``[S, S]`` in [-1, num_classes) -> int64 ``[side, side]``: what covers most of each cell."""
    size = labels.shape[0]
    if size < side:
        at = (np.arange(side) + 0.5) * size / side
        return labels[np.ix_(at.astype(int), at.astype(int))].astype(np.int64)
    cell = (np.arange(size) * side) // size
    flat = (labels.astype(np.int64) + 1) * side * side + cell[:, None] * side + cell[None]
    count = np.bincount(flat.ravel(), minlength=(num_classes + 1) * side * side).reshape(num_classes + 1, -1)
    return (count.argmax(axis=0) - 1).reshape(side, side)
