"""What each button does: a request becomes steps that end in a reply. Stateless but for tokens, jobs and caches.

Steps run one at a time in the thread of `scheduling.Scheduler`; a yield lets others in between.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sis_rearrange import __version__
from sis_rearrange.editing import Edited as EditedPicture
from sis_rearrange.editing import edit, exemplar, mix_layers, read_change, transfer
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit, flatten
from sis_rearrange.inversion import Crop
from sis_rearrange.inversion.crops import square_tensor
from sis_rearrange.pack import Pack
from sis_rearrange.sampling import metadata
from sis_rearrange.studio import protocol, replies
from sis_rearrange.studio.commands import (
    Command,
    Names,
    edit_command,
    mix_command,
    psi_for,
    render_command,
    transfer_command,
)
from sis_rearrange.studio.messages import calling, noted_warnings
from sis_rearrange.studio.models import Model, Recent
from sis_rearrange.studio.pictures import for_display, hex_colour, parts_of, png, shares, source_cells
from sis_rearrange.studio.scheduling import Steps
from sis_rearrange.studio.store import Store
from sis_rearrange.studio.uploads import check_flat, decode
from sis_rearrange.studio.values import Limits, Look
from sis_rearrange.targets import Layouts, Result, Target
from sis_rearrange.tensors import to_uint8
from sis_rearrange.whole_graph import Source

PAINTED = ("segmentation", "scribble", "proxy")  # conditions whose drawings have the colours of a palette
DRAWN_SIDE = 256  # pixels of the drawings that `start` gives
PICTURES = 2  # decoded uploads, kept for the next edit


class Operations:
    """The packs of one server, and what can be asked of them."""

    def __init__(self, packs: list[Pack], store: Store, limits: Limits, device: str, backend: str) -> None:
        self.limits, self.store, self.device = limits, store, device
        names = [pack.name for pack in packs]
        if not packs or len(set(names)) != len(names):
            raise InputError(f"the studio needs packs of different names, got {', '.join(names) or 'none'}")
        self._models = {pack.name: Model(pack, store, device, backend) for pack in packs}
        self._pictures: Recent[Image.Image] = Recent(PICTURES)

    def model(self, name: str | None) -> Model:
        """The model of a pack; the first one's for None."""
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise InputError(f"pack: this server has {', '.join(self._models)}, not {name[:60]!r}")
        return self._models[name]

    def folders(self) -> list[tuple[str, str]]:
        """The folder and the name of each pack."""
        packs = [model.pack for model in self._models.values()]
        return [(str(path), pack.name) for pack in packs for path in {pack.path, pack.path.resolve()}]

    def steps(self, request: protocol.Request) -> Steps:
        """The steps of a request that is answered by drawing alone."""
        kinds: dict[type[protocol.Request], Any] = {
            protocol.DescribeRequest: self._describe,
            protocol.RenderRequest: self._render,
            protocol.GalleryRequest: self._gallery,
            protocol.StartRequest: self._start,
            protocol.MixRequest: self._mix,
            protocol.TransferRequest: self._transfer,
        }
        steps: Steps = kinds[type(request)](request)
        return steps

    def warm_up(self) -> Steps:
        """Draw the pack's own examples, so that the first person does not wait for graphs to be compiled."""
        for model in self._models.values():
            shown = model.look(Look(seed=0))
            yield
            model.fast.paint(model.fast.read(shown.source, "exemplar"), shown.source)
            for condition in model.pack.conditions():
                for relpath in [name for name in model.pack.drawings() if f"/{condition}-" in name][:1]:
                    yield from _warm(model, condition, model.pack.file(relpath), shown.source)

    # ---------------------------------------------------------------- what there is

    def _describe(self, request: protocol.DescribeRequest) -> Steps:
        model = self.model(request.pack)
        pack, proxy = model.pack, model.fast.proxy
        drawn = {name.split("/")[-1].rsplit("-", 1)[0] for name in pack.drawings()}
        limits = {name: value for name, value in asdict(self.limits).items() if isinstance(value, int | float)}
        yield
        return replies.Described(
            pack=pack.name,
            packs=list(self._models),
            version=__version__,
            resolution=proxy.resolution,
            img_resolution=pack.resolution,
            num_ws=pack.generator().num_ws,
            conditions=list(model.fast.conditions),
            parts=parts_of(model.parts),
            clusters=[hex_colour(colour) for colour in model.fast.proxy_palette.colours],
            drawings=sorted(drawn),
            can_edit_parts=model.has_segmenter,
            can_transfer=model.has_segmenter,
            can_label=True,
            limits=limits,
            credit=metadata(pack).get("Credit", ""),
        )

    def _gallery(self, request: protocol.GalleryRequest) -> Steps:
        model, found = self.model(request.pack), []
        for seed in range(request.first_seed, request.first_seed + request.count):
            found.append(replies.Thumbnail(seed, model.thumbnail(Look(seed, request.psi))))
            yield
        return replies.Gallery(request.psi, found)

    def _start(self, request: protocol.StartRequest) -> Steps:
        model = self.model(request.pack)
        if request.condition is not None:
            model = model.own(request.condition)
        yield
        shown, parts, seen = model.look(request.look), None, None
        if model.has_segmenter and model.parts is not None:
            seen = model.editor.parts(square_tensor(shown.image, model.pack.resolution))[0].cpu().numpy()
            parts = png(model.parts.to_image(seen))
        drawings = {}
        for condition in model.pack.conditions():
            yield
            drawings.update(_drawn(model, condition, shown.image, seen))
        return replies.Started(shown.image_png, shown.proxy_png, parts, drawings)

    # ---------------------------------------------------------------- drawings

    def _render(self, request: protocol.RenderRequest) -> Steps:
        began = time.perf_counter()
        model, condition = self.model(request.pack), request.condition
        if protocol.is_token(condition):
            kind = str(self.store.get(condition, "classes").about["condition"])
            model, condition = model.own(condition), kind
        shown = model.look(request.look)
        synth = shown.synth
        synth.readers.check(condition, request.fit)
        drawing, size = self._drawing(request, model, condition)
        with noted_warnings() as notes, calling("drawing"):
            if request.samples == 1:
                results = [synth.synthesize(drawing, condition, request.fit, shown.source, refine=request.refine)]
            else:
                targets = self._layouts(synth.read(drawing, condition, request.fit), request)
        if request.samples > 1:
            results = []
            for target in targets:
                yield
                results.append(synth.paint(synth.refine(target, request.refine, shown.source), shown.source))
        fit = Fit(request.fit, size)
        names = self._names(model, request.look, request.drawing.look)
        command = render_command(request, condition, synth.backend, names)
        first, *others = results
        return replies.Rendered(
            image=png(first.image, first.metadata),
            proxy_mask=png(synth.proxy_image(first.proxy_mask)),
            correspondence=source_cells(first.correspondence),
            confidence=shares(first.confidence),
            source_image=shown.image_png,
            source_proxy_mask=shown.proxy_png,
            box=_box(fit),
            metadata=first.metadata,
            command=command.line(),
            needs=command.needs,
            alternatives=[_alternative(model, each) for each in others],
            milliseconds={"working": _since(began)},
            warnings=notes,
        )

    def _drawing(self, request: protocol.RenderRequest, model: Model, condition: str) -> tuple[Any, tuple[int, int]]:
        """What the facade takes as the drawing, and its size (height, width)."""
        drawn = request.drawing
        if drawn.data is not None:
            if condition == "exemplar":
                raise InputError("drawing: an exemplar is a seed or an inverted picture; upload and invert it first")
            most = self.limits.mask_pixels if condition == "proxy" else self.limits.drawing_pixels
            image = decode(drawn.data, "drawing", most)
            if condition in PAINTED:
                check_flat(image, "drawing")
            return image, (image.height, image.width)
        assert drawn.look is not None
        if condition != "exemplar":
            raise InputError(f"drawing: {condition} takes a picture file; seeds and pictures are for exemplar")
        psi = psi_for(request.look)
        if drawn.look.psi not in (None, psi):
            raise InputError(f"drawing.psi: an exemplar's sample has the look's truncation, {psi:g}")
        wanted = drawn.look if drawn.look.picture is not None else replace(drawn.look, psi=psi)
        side = model.pack.resolution
        return model.look(wanted).source, (side, side)

    def _layouts(self, target: Target, request: protocol.RenderRequest) -> list[Target]:
        """As the pack's own synthesizer varies it, which has the samples for that; own classes share them."""
        layouts = Layouts(request.samples, request.temperature, request.layout_seed)
        return self.model(request.pack).fast.vary(target, layouts)

    # ---------------------------------------------------------------- edits

    def edit_steps(self, request: protocol.EditRequest, original: Image.Image) -> Steps:
        """The steps of an edit of an uploaded picture; they end in what `edit_reply` takes."""
        model = self.model(request.pack)
        inversion, seen = model.inversion(request.token), model.editor_look(Look(picture=request.token))
        yield
        mask = check_flat(decode(request.mask, "mask", self.limits.mask_pixels), "mask")
        upright = flatten(original)  # what networks see of it
        square = square_tensor(inversion.crop.cut(upright), model.pack.resolution).to(model.editor.device)
        change = read_change(model.editor, seen, square, mask, request.kind)
        yield
        found = edit(model.editor, seen, original, inversion.crop, change, request.feather)
        return found, change.kind, inversion.crop

    def edit_reply(
        self, request: protocol.EditRequest, found: EditedPicture, kind: str, crop: Crop, began: float
    ) -> replies.Edited:
        """The reply to an edit. Photos take long to encode, so this is no work for the thread that draws."""
        model, picture = self.model(request.pack), str(self.store.get(request.token, "inversion").about["picture"])
        command = edit_command(request, picture, kind, self._names(model, Look(picture=request.token)))
        about = {**metadata(model.pack), "edited": picture, "mask": kind}
        image = found.image if request.whole else for_display(crop.cut(found.image))
        weight = Image.fromarray(np.rint(found.weight * 255).astype(np.uint8))
        return replies.Edited(
            image=png(image, about),
            weight=png(for_display(weight)),
            proxy_mask=png(model.editor.proxy_palette.to_image(found.proxy_mask)),
            kind=kind,
            cells=int(found.cells.sum()),
            agreement=found.agreement,
            shows=found.shows,
            command=command.line(),
            needs=command.needs,
            metadata=about,
            milliseconds={"working": _since(began)},
        )

    def original(self, token: str) -> Image.Image:
        """The picture behind an inversion, upright, with its transparency. For one thread, which need not draw."""
        path = self.store.get(token, "inversion").folder / "upload"
        most = self.limits.upload_pixels
        return self._pictures.get(token, lambda: decode(path.read_bytes(), "picture", most))

    def _mix(self, request: protocol.MixRequest) -> Steps:
        began, model = time.perf_counter(), self.model(request.pack)
        command = mix_command(request, self._names(model, request.structure, request.look))
        first = model.editor_look(request.structure)
        yield
        second = model.editor_look(request.look)
        yield
        if request.layer is None:
            image = exemplar(model.editor, first, second)
        else:
            image = mix_layers(first, second, request.layer)
        return _mixed(model, image, command, began, structure=first.name, look=second.name)

    def _transfer(self, request: protocol.TransferRequest) -> Steps:
        began, model = time.perf_counter(), self.model(request.pack)
        command = transfer_command(request, self._names(model, request.base, request.donor))
        model.editor.part_numbers(request.parts)
        base = model.editor_look(request.base)
        yield
        donor = model.editor_look(request.donor)
        yield
        image = transfer(model.editor, base, donor, request.parts)
        return _mixed(model, image, command, began, base=base.name, donor=donor.name, parts=",".join(request.parts))

    # ---------------------------------------------------------------- pieces

    def _names(self, model: Model, *looks: Look | None) -> Names:
        """What commands call the pack and the pictures of these looks."""
        tokens = [look.picture for look in looks if look is not None and look.picture is not None]
        files = {token: str(self.store.get(token, "inversion").about["file"]) for token in tokens}
        return Names(model.pack.name, self.device, files)


def _mixed(model: Model, image: Any, command: Command, began: float, **notes: str) -> replies.Mixed:
    about = {**metadata(model.pack), **notes}
    picture = png(Image.fromarray(to_uint8(image)[0]), about)
    return replies.Mixed(picture, command.line(), command.needs, about, {"working": _since(began)})


def _warm(model: Model, condition: str, drawing: Path, source: Source) -> Generator[None, None, None]:
    """Draw one example; a condition that cannot be used here says so to whoever asks for it."""
    with suppress(InputError):
        yield
        model.fast.synthesize(drawing, condition, source=source)
        yield
        model.fast.vary(model.fast.read(drawing, condition), Layouts(samples=2))


def _drawn(model: Model, condition: str, picture: Image.Image, parts: np.ndarray | None) -> dict[str, bytes]:
    """A picture as somebody would have drawn it, larger; nothing where the condition lacks what that takes."""
    reader = model.fast.readers.halves(condition)[0]
    if reader.needs_labels and parts is None:
        return {}
    size = (DRAWN_SIDE, DRAWN_SIDE)
    large = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    labels = None
    if parts is not None:
        labels = np.asarray(Image.fromarray(parts.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    try:
        return {condition: png(reader.draw(large, labels, seed=0))}
    except InputError:
        return {}


def _alternative(model: Model, result: Result) -> replies.Alternative:
    mask = png(model.fast.proxy_image(result.proxy_mask))
    return replies.Alternative(png(result.image, result.metadata), mask, shares(result.confidence), result.metadata)


def _box(fit: Fit) -> list[float]:
    """Which part of the generator's square a result shows, as shares of its side: left, top, right, bottom."""
    if fit.mode != "pad":
        return [0.0, 0.0, 1.0, 1.0]
    side = 4096
    return [round(edge / side, 4) for edge in fit.inner(side)]


def _since(began: float) -> float:
    return round(1000 * (time.perf_counter() - began), 2)
