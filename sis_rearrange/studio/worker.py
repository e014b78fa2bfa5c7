"""The process that does long jobs: `python -m sis_rearrange.studio.worker`, one JSON line in, JSON lines out.

It runs beside the server at a low priority, so that drawing stays smooth, and can be ended at any moment. A task
is ``{"kind", "pack", "folder", ...}``; what comes back are ``{"fraction", "message"}`` and in the end ``{"done": ...}``
or ``{"failed": one line}``. When the server goes, so does this.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sis_rearrange.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from sis_rearrange.editing import Editor, Look
    from sis_rearrange.pack import Pack

Say = Callable[[float, str], None]
NICE = 10  # a tenth of a core beside others that want it, all of it otherwise
DISTIL_STEPS = 180  # of the U-Net: people wait for it
SHOWN = 12  # samples on the sheet of what was learnt
_STEP = re.compile(r"step ([\d,]+) of ([\d,]+)")
_PHASES = ((0.04, 0.5, "learning to see the parts"), (0.5, 0.97, "learning to draw from them"))


def main() -> None:
    """Serve tasks until the input ends."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICE)
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever libraries print is no line of ours
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    while True:
        task = tasks.get()
        lines.write(json.dumps(answer(task, lambda fraction, text: _progress(lines, fraction, text))) + "\n")


def _listen(tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)  # the server is gone: nobody waits for what is being done


def _progress(lines: Any, fraction: float, message: str) -> None:
    lines.write(json.dumps({"fraction": round(fraction, 4), "message": message}) + "\n")


def answer(task: dict[str, Any], say: Say) -> dict[str, Any]:
    """Do one task; its last line."""
    try:
        kinds = {"invert": invert_picture, "morph": make_film, "label_train": learn_classes}
        return {"done": kinds[task["kind"]](task, say)}
    except InputError as error:
        return {"failed": str(error)}
    except Exception as error:  # the server says that it failed; why stands in its log
        import traceback

        traceback.print_exc()
        return {"failed": "", "bug": type(error).__name__}


# ---- invert ----------------------------------------------------------------------------------------------------------


def invert_picture(task: dict[str, Any], say: Say) -> dict[str, Any]:
    """Find an uploaded picture in the generator; writes ``folder/file`` and returns what is shown of it."""
    from dataclasses import replace

    from sis_rearrange.editing import Editor, own_masks
    from sis_rearrange.images import flatten
    from sis_rearrange.inversion import Crop, InversionConfig, error_picture, invert, work
    from sis_rearrange.inversion.crops import square_tensor
    from sis_rearrange.sampling import pick_device
    from sis_rearrange.studio.pictures import for_display, png
    from sis_rearrange.studio.uploads import decode
    from sis_rearrange.tensors import to_uint8

    pack, folder = _pack(task), Path(task["folder"])
    upright = flatten(decode((folder / "upload").read_bytes(), "picture", task["most_pixels"]))
    crop = Crop(**task["crop"]).check(upright)
    config = InversionConfig(steps=task["steps"], tune=task["tune"], seed=task["seed"])
    whole, done = work(config, pack.resolution), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        say(min(done / whole, 1.0), "looking for the picture in the generator")

    device = pick_device(task["device"])
    found = invert(pack, upright, progress=advance, crop=crop, device=device, config=config)
    found = replace(found, picture={**found.picture, "name": task["picture"]})
    found.save(folder / task["file"])
    square, editor = crop.cut(upright), Editor(pack, device)
    look = editor.look(found)
    masks = own_masks(editor, look, square_tensor(square, pack.resolution).to(device))
    return {
        "image": _text(png(_image(to_uint8(look.picture())[0]))),
        "original": _text(png(for_display(square))),
        "proxy_mask": _text(_at_side(masks["proxy"], editor.proxy.resolution)),
        "part_mask": _text(_at_side(masks["parts"], pack.resolution)) if "parts" in masks else None,
        "error_map": _text(png(error_picture(found, for_display(square)))),
        "psnr": round(found.psnr, 2),
        "outside": bool(found.outside),
        "far": round(found.scores["nearest"] / found.scores["limit"], 2),
    }


def _at_side(mask: Image.Image, side: int) -> bytes:
    from PIL import Image

    from sis_rearrange.studio.pictures import png

    return png(mask.resize((side, side), Image.Resampling.NEAREST))


# ---- morph -----------------------------------------------------------------------------------------------------------


def make_film(task: dict[str, Any], say: Say) -> dict[str, Any]:
    """The frames between two layouts as a GIF, as `sis morph` makes it."""
    from sis_rearrange.editing import Editor, write_film

    pack = _pack(task)
    editor = Editor(pack, task["device"])
    pictures = []
    for number, frame in enumerate(_frames(task, editor), start=1):
        pictures.append(frame)
        say(0.95 * number / task["frames"], f"frame {number} of {task['frames']}")
    path = Path(task["folder"]) / "morph.gif"
    write_film(path, pictures, task["rate"])
    return {"gif": _text(path.read_bytes()), "frames": len(pictures)}


def _frames(task: dict[str, Any], editor: Editor) -> Iterator[Image.Image]:
    from PIL import Image

    from sis_rearrange.editing import morph, morph_latents
    from sis_rearrange.editing.morphing import FILM_SIDE
    from sis_rearrange.tensors import to_uint8

    first, second = task["first"], task["second"]
    if task["condition"] is not None:
        painted = _look(editor, task["look"])
        start, end = (_drawn(editor, painted, Path(drawn["file"]), task) for drawn in (first, second))
        steps = morph(editor, painted, start, end, task["frames"])
    else:
        one, other = _look(editor, first), _look(editor, second)
        painted = one if task["look"] is None else _look(editor, task["look"])
        if task["through"] == "latents":
            steps = morph_latents(editor, painted, one, other, task["frames"])
        else:
            start, end = (editor.reachable(each.logits, painted) for each in (one, other))
            steps = morph(editor, painted, start, end, task["frames"])
    factor = max(1, -(-FILM_SIDE // editor.pack.resolution))
    for image in steps:
        frame = Image.fromarray(to_uint8(image)[0])
        yield frame.resize((frame.width * factor, frame.height * factor))


def _look(editor: Editor, of: dict[str, Any]) -> Look:
    from sis_rearrange.inversion import Inversion

    if "inversion" in of:
        return editor.look(Inversion.load(of["inversion"], editor.pack))
    return editor.look(of["seed"], of["psi"])


def _drawn(editor: Editor, look: Look, path: Path, task: dict[str, Any]) -> Any:
    from sis_rearrange.studio.uploads import decode
    from sis_rearrange.synthesis import Synthesizer

    drawing = decode(path.read_bytes(), path.stem, task["most_pixels"])
    target = Synthesizer(editor.pack, editor.device, "torch").read(drawing, task["condition"])
    return target.labels if target.logits is None else editor.reachable(target.logits, look)


# ---- label -----------------------------------------------------------------------------------------------------------


def learn_classes(task: dict[str, Any], say: Say) -> dict[str, Any]:
    """Train a mapper for the parts of one painted sample, as `sis label import` does, into a pack of its own."""
    import shutil

    from sis_rearrange.conditions import Palette
    from sis_rearrange.images import write_png
    from sis_rearrange.studio.uploads import decode
    from sis_rearrange.training.distil import DistilConfig
    from sis_rearrange.training.few_shot import check_ready, few_shot_config, train_mapper_from_shots
    from sis_rearrange.training.own_classes import pack_with_classes
    from sis_rearrange.training.shot_files import export_shots, shots_from_folder

    pack, folder = _pack(task), Path(task["folder"])
    names, colours = (tuple(each[key] for each in task["classes"]) for key in ("name", "colour"))
    palette = Palette(names, tuple((r, g, b) for r, g, b in colours))
    say(0.01, "reading the painted parts")
    shots_folder = folder / "shots"
    mask_path = export_shots(pack, [task["seed"]], shots_folder, task["psi"], 1, palette)[0]
    write_png(mask_path, decode((folder / "mask").read_bytes(), "mask", task["most_pixels"]))
    with _naming(str(mask_path), "mask"):
        shots = shots_from_folder(shots_folder, pack, palette)
    target = pack_with_classes(pack, palette, folder / task["name"])
    precision = _precision(task["device"])
    config = few_shot_config(target, task["condition"], seed=0, kimg=task["kimg"], precision=precision)
    check_ready(target, config)
    say(_PHASES[0][0] / 2, _PHASES[0][2])
    distil, run = DistilConfig(steps=DISTIL_STEPS, bfloat16=precision == "bfloat16"), folder / "run"
    with contextlib.redirect_stderr(_Steps(say)):
        learnt = train_mapper_from_shots(
            target.path, shots, run, config, distil, task["device"], tick=0.5, progress=False
        )
    say(0.98, "looking at other samples")
    sheet = _learnt_sheet(target, learnt.segmenter)
    for rest in ("run", "shots"):
        shutil.rmtree(folder / rest, ignore_errors=True)
    return {"learnt": _text(sheet), "minutes": round(learnt.scores["minutes"], 2)}


def _precision(device: str) -> str:
    """bfloat16 on processors that multiply in it: as good, and a third faster; elsewhere it would be slower."""
    import torch

    from sis_rearrange.sampling import pick_device

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.10 does not tell
    native = pick_device(device).type == "cpu" and (known.get("avx512_bf16") or known.get("amx_bf16"))
    return "bfloat16" if native else "float32"


@contextlib.contextmanager
def _naming(path: str, name: str) -> Iterator[None]:
    """Errors call a file of ours what the person knows it as."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(path, name)) from None


class _Steps(io.TextIOBase):
    """What trainings write on stderr, for its step counts."""

    def __init__(self, say: Say) -> None:
        self._say, self._phase, self._last = say, 0, 0

    def write(self, text: str) -> int:
        """Text of a console line."""
        for step, steps in _STEP.findall(text):
            done, of = (int(number.replace(",", "")) for number in (step, steps))
            if done < self._last:
                self._phase = min(self._phase + 1, len(_PHASES) - 1)
            self._last = done
            low, high, message = _PHASES[self._phase]
            self._say(low + (high - low) * done / max(of, 1), message)
        return len(text)


def _learnt_sheet(pack: Pack, segmenter: Any) -> bytes:
    """Fresh samples beside the parts that are seen in them, as PNG."""
    import torch

    from sis_rearrange.features import sample_ws
    from sis_rearrange.images import contact_sheet
    from sis_rearrange.studio.pictures import png
    from sis_rearrange.tensors import to_uint8

    generator, palette = pack.generator(), pack.palette()
    assert palette is not None
    with torch.no_grad():
        images = generator.synthesis(sample_ws(generator, range(SHOWN))).clamp(-1, 1)
        masks = segmenter.cpu()(images).argmax(1).numpy()
    pairs = [(_image(x), palette.to_image(mask)) for x, mask in zip(to_uint8(images), masks, strict=True)]
    half = SHOWN // 2
    rows = [[pair[kind] for pair in pairs[at : at + half]] for at in (0, half) for kind in (0, 1)]
    return png(contact_sheet(rows, ["sample", "parts"] * 2))


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _pack(task: dict[str, Any]) -> Pack:
    from sis_rearrange.pack import load_pack

    return load_pack(task["pack"])


def _image(array: Any) -> Image.Image:
    from PIL import Image

    return Image.fromarray(array)


def _text(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode("ascii")


if __name__ == "__main__":
    main()
