"""Requests in, replies out: what the server does apart from the web. One `Studio` serves all clients."""

from __future__ import annotations

import base64
import logging
import re
import shutil
import threading
import time
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from sis_rearrange.errors import InputError
from sis_rearrange.images import flatten
from sis_rearrange.inversion import Crop
from sis_rearrange.pack import Pack, load_pack
from sis_rearrange.studio import protocol, replies
from sis_rearrange.studio.commands import MASK, Names, invert_command, morph_command
from sis_rearrange.studio.jobs import Jobs
from sis_rearrange.studio.models import inversion_file, own_folder, psi_of
from sis_rearrange.studio.operations import PAINTED, Operations
from sis_rearrange.studio.pictures import parts_of
from sis_rearrange.studio.refusals import Busy
from sis_rearrange.studio.scheduling import Scheduler
from sis_rearrange.studio.store import Entry, Store, safe_name
from sis_rearrange.studio.uploads import check_flat, decode
from sis_rearrange.studio.values import Limits, Look

OWN_NAME = "own-classes"  # folder of a pack with own classes
SWEEP_SECONDS = 60.0
DECODING = 8  # uploads that may wait for one another

_log = logging.getLogger(__name__)


class Studio:
    """The packs, the thread that draws, the process for jobs, and the files behind tokens."""

    def __init__(
        self,
        packs: list[Pack],
        limits: Limits | None = None,
        device: str = "auto",
        backend: str = "auto",  # what paints the looks of seeds; see `models`
    ) -> None:
        self.limits = limits or Limits()
        self.device = device
        self.store = Store(self.limits.pictures, self.limits.keep_seconds, self.limits.disk_bytes)
        try:
            self.operations = Operations(packs, self.store, self.limits, device, backend)
        except BaseException:
            self.store.close()
            raise
        self.scheduler = Scheduler(self.limits.waiting, self.limits.waiting_of_one, self.limits.seconds)
        self.jobs = Jobs(self.store, self.limits.jobs, self.limits.job_seconds)
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="studio-upload")
        self._decoding = threading.BoundedSemaphore(DECODING)
        self._closed = threading.Event()
        threading.Thread(target=self._sweep, name="studio-sweep", daemon=True).start()

    def warm_up(self) -> Future[Any]:
        """Make what the first request would wait for; the future ends when that is done."""
        return self.scheduler.submit(self.operations.warm_up)

    def submit(self, operation: str, data: Any) -> Future[Any]:
        """Read a request and let it be answered: the future gets a reply of `replies`, or the exception.

        Raises InputError for a bad request, `Gone` for an unknown token, `Busy` where the queue is full.
        """
        request = protocol.read_request(operation, data, self.limits)
        if isinstance(request, protocol.UploadRequest):
            return self._later(lambda: self._upload(request))
        if isinstance(request, protocol.CancelRequest):
            return self._later(lambda: self._shown(self.jobs.cancel(request.id)))
        if isinstance(request, protocol.FileRequest):
            return self._later(lambda: self._file(request))
        if isinstance(request, protocol.JobRequest):
            return _done(self._shown(self.jobs.state(request.id)))
        if isinstance(request, protocol.InvertRequest):
            return self._later(lambda: self._invert(request))
        if isinstance(request, protocol.MorphRequest):
            return self._later(lambda: self._morph(request))
        if isinstance(request, protocol.LabelRequest):
            return self._later(lambda: self._label(request))
        if isinstance(request, protocol.EditRequest):
            return self._later(lambda: self._edit(request))
        supersedes = isinstance(request, protocol.RenderRequest)
        return self.scheduler.submit(lambda: self.operations.steps(request), request.client, request.number, supersedes)

    def close(self) -> None:
        """End threads and processes, and remove all files."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.scheduler.close()
        self.jobs.close()
        self._decoder.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    def public(self, message: str) -> str:
        """A message without any folder of this machine, and with fields in place of a command's options."""
        for folder, name in [(str(self.store.folder), "studio"), *self.operations.folders()]:
            message = message.replace(folder, name)
        return re.sub(r"(?<![\w-])--(?=[a-z])", "", message)

    def _shown(self, state: replies.JobState) -> replies.JobState:
        return replace(state, message=self.public(state.message))

    def _sweep(self) -> None:
        while not self._closed.wait(SWEEP_SECONDS):
            self.store.sweep()

    def _later(self, work: Any) -> Future[Any]:
        """Files and decoders, off the thread that draws."""
        if not self._decoding.acquire(blocking=False):
            raise Busy(f"busy: {DECODING} requests are waiting, try again in a moment")
        future = self._decoder.submit(work)
        future.add_done_callback(lambda _: self._decoding.release())
        return future

    # ---------------------------------------------------------------- pictures

    def _upload(self, request: protocol.UploadRequest) -> replies.Uploaded:
        upright = flatten(decode(request.picture, "picture", self.limits.upload_pixels))
        crop = Crop.middle(upright)
        size = {"width": upright.width, "height": upright.height}
        name = safe_name(request.name)
        if Path(name).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            name = f"{name}.png"
        if name == MASK:  # a command names both
            name = f"photo-{name}"
        entry = self.store.add("upload", name=name, **size)
        (entry.folder / "upload").write_bytes(request.picture)
        notes = []
        if upright.width != upright.height:
            notes.append(f"{upright.width}x{upright.height} is not square: choose the square that shows the subject")
        return replies.Uploaded(entry.token, name, **size, crop=_box(crop), warnings=notes)

    def _invert(self, request: protocol.InvertRequest) -> replies.JobStarted:
        self.jobs.check_room()
        model, upload = self.operations.model(request.pack), self.store.get(request.token, "upload")
        width, height = upload.about["width"], upload.about["height"]
        crop = _middle(width, height) if request.crop is None else Crop(**vars(request.crop))
        if crop.size < 8 or crop.x + crop.size > width or crop.y + crop.size > height:
            raise InputError(f"crop: must be a square of at least 8 pixels inside the picture of {width}x{height}")
        name = str(upload.about["name"])
        about = {"picture": name, "file": f"{Path(name).stem}.safetensors", "pack": model.pack.name}
        command = invert_command(request, name, crop, about["file"], Names(model.pack.name, self.device))
        task = {
            "crop": _box(crop),
            "steps": request.steps,
            "tune": request.tune,
            "seed": request.seed,
            **about,
            **self._common("invert", model.pack, self.limits.upload_pixels),
        }
        job = self._job(task)
        shutil.copyfile(upload.folder / "upload", job.folder / "upload")

        def finish(made: dict[str, Any]) -> replies.Inverted:
            entry = self.store.add("inversion", **about)
            for file in ("upload", about["file"]):
                shutil.move(job.folder / file, entry.folder / file)
            return _inverted(made, entry, _box(crop), command.line())

        return replies.JobStarted(self.jobs.add(job, task, finish))

    def _edit(self, request: protocol.EditRequest) -> replies.Edited:
        """Decoding and encoding a photo here, what is drawn in the thread that draws."""
        began, original = time.perf_counter(), self.operations.original(request.token)
        future = self.scheduler.submit(lambda: self.operations.edit_steps(request, original), request.client)
        found, kind, crop = future.result()
        return self.operations.edit_reply(request, found, kind, crop, began)

    def _file(self, request: protocol.FileRequest) -> replies.FileSent:
        entry = self.store.find(request.token)
        if entry.kind == "inversion":
            path = inversion_file(entry)
            return replies.FileSent(path.name, path.read_bytes())
        if entry.kind != "classes":
            raise InputError("token: only inverted pictures and own classes have a file")
        folder, path = own_folder(entry), entry.folder / f"{OWN_NAME}.zip"
        if not path.exists():
            with zipfile.ZipFile(path, "w") as archive:  # weights do not shrink
                for file in sorted(each for each in folder.rglob("*") if each.is_file()):
                    archive.write(file, Path(OWN_NAME) / file.relative_to(folder))
        return replies.FileSent(path.name, path.read_bytes())

    # ---------------------------------------------------------------- other jobs

    def _morph(self, request: protocol.MorphRequest) -> replies.JobStarted:
        self.jobs.check_room()
        model, condition, pack = self.operations.model(request.pack), request.condition, None
        if condition is not None and protocol.is_token(condition):
            classes = self.store.get(condition, "classes")
            condition, pack = str(classes.about["condition"]), load_pack(own_folder(classes))
        _check_ends(request)
        if condition is not None and pack is None:
            model.fast.readers.check(condition)
        ends = (request.first, request.second)
        looks = [end.look for end in ends if end.look is not None] + ([request.look] if request.look else [])
        names = Names(pack.name if pack else model.pack.name, self.device, self._files_of(looks))
        command = morph_command(request, condition, names)
        pixels = self.limits.drawing_pixels
        for end, name in zip(ends, ("first", "second"), strict=True):
            if end.data is not None:
                drawing = decode(end.data, name, pixels)
                if condition in PAINTED:
                    check_flat(drawing, name)
        task = {
            "through": request.through,
            "frames": request.frames,
            "rate": request.rate,
            "condition": condition,
            "look": None if request.look is None else self._look_task(request.look),
            **self._common("morph", pack or model.pack, pixels),
        }
        job = self._job(task)
        for end, name in zip(ends, ("first", "second"), strict=True):
            if end.data is not None:
                (job.folder / name).write_bytes(end.data)
            task[name] = {"file": str(job.folder / name)} if end.look is None else self._look_task(end.look)

        def finish(made: dict[str, Any]) -> replies.Morphed:
            return replies.Morphed(base64.b64decode(made["gif"]), made["frames"], command.line(), command.needs)

        return replies.JobStarted(self.jobs.add(job, task, finish))

    def _label(self, request: protocol.LabelRequest) -> replies.JobStarted:
        self.jobs.check_room()
        model = self.operations.model(request.pack)
        check_flat(decode(request.mask, "mask", self.limits.mask_pixels), "mask")
        task = {
            "seed": request.seed,
            "psi": request.psi,
            "classes": [{"name": each.name, "colour": list(each.colour)} for each in request.classes],
            "condition": request.condition,
            "kimg": request.kimg,
            "name": OWN_NAME,
            **self._common("label_train", model.pack, self.limits.mask_pixels),
        }
        job = self._job(task)
        (job.folder / "mask").write_bytes(request.mask)

        def finish(made: dict[str, Any]) -> replies.Learnt:
            about = {"condition": request.condition, "pack": model.pack.name, "name": OWN_NAME}
            entry = self.store.add("classes", **about)
            shutil.move(job.folder / OWN_NAME, entry.folder / OWN_NAME)
            parts = parts_of(load_pack(own_folder(entry)).palette())
            sheet = base64.b64decode(made["learnt"])
            return replies.Learnt(entry.token, request.condition, parts, sheet, made["minutes"])

        return replies.JobStarted(self.jobs.add(job, task, finish))

    # ---------------------------------------------------------------- pieces

    def _job(self, task: dict[str, Any]) -> Entry:
        entry = self.store.add("job")
        task["folder"] = str(entry.folder)
        return entry

    def _common(self, kind: str, pack: Pack, pixels: int) -> dict[str, Any]:
        return {"kind": kind, "pack": str(pack.path), "device": self.device, "most_pixels": pixels}

    def _files_of(self, looks: list[Look]) -> dict[str, str]:
        tokens = [look.picture for look in looks if look.picture is not None]
        return {token: str(self.store.get(token, "inversion").about["file"]) for token in tokens}

    def _look_task(self, look: Look) -> dict[str, Any]:
        if look.picture is not None:
            return {"inversion": str(inversion_file(self.store.get(look.picture, "inversion")))}
        return {"seed": look.seed, "psi": psi_of(look)}


def _check_ends(request: protocol.MorphRequest) -> None:
    """InputError unless both layouts are looks, or both are drawings with what these need."""
    drawn = [end.look is None for end in (request.first, request.second)]
    if request.condition is None and any(drawn):
        raise InputError("condition: is missing; say what kind of drawings the layouts are")
    if request.condition is not None:
        if not all(drawn):
            raise InputError("first, second: with a condition both are drawings, without one both are looks")
        if request.look is None or request.through != "masks":
            raise InputError("look: drawings have no look of their own; give one, and go through masks")


def _inverted(made: dict[str, Any], entry: Entry, crop: dict[str, int], command: str) -> replies.Inverted:
    pictures = {
        name: None if made[name] is None else base64.b64decode(made[name])
        for name in ("image", "original", "proxy_mask", "part_mask", "error_map")
    }
    notes = []
    if made["outside"]:
        notes.append(
            f"this picture is outside the generator's domain ({made['far']:.1f} times as far from its samples as they "
            "may be from each other): expect poor edits; try another crop"
        )
    found: Any = pictures  # mypy sees that part_mask may be None, and would have the others be so too
    file = str(entry.about["file"])
    psnr, outside = made["psnr"], made["outside"]
    return replies.Inverted(
        token=entry.token, psnr=psnr, outside=outside, crop=crop, file=file, command=command, warnings=notes, **found
    )


def _box(crop: Crop) -> dict[str, int]:
    return {"x": crop.x, "y": crop.y, "size": crop.size}


def _middle(width: int, height: int) -> Crop:
    size = min(width, height)
    return Crop((width - size) // 2, (height - size) // 2, size)


def _done(reply: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(reply)
    return future
