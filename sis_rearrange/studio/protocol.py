"""What goes over the wire: one JSON request and one JSON reply per operation, `POST /studio/api/OPERATION`.

Pictures are base64 of PNG, JPEG or WebP files (a data URL's head may stand in front), never paths. A look is
``{"seed": 3, "psi": 0.9}`` or ``{"picture": TOKEN}``, the token of an inverted picture. Every request may carry
``client`` (a random name that the page chose for itself), ``number`` (rising: a newer `render` makes older ones that
still wait answer ``{"stale": true}``) and ``pack`` (its name, where the server has several).

`REQUESTS` names the operations. Replies stand in `sis_rearrange.studio.replies`, one class per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sis_rearrange.editing.morphing import THROUGH
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.images import FITS
from sis_rearrange.inversion import InversionConfig
from sis_rearrange.sampling import DEFAULT_PSI, MAX_PSI
from sis_rearrange.studio.fields import TOKEN, Fields, shown
from sis_rearrange.studio.values import MAX_SEED, CropBox, Drawing, Limits, Look, OwnClass
from sis_rearrange.targets import MAX_TEMPERATURE

MAX_NUMBER = 2**53 - 1
MASK_KINDS = ("auto", "proxy", "parts")
DEFAULT_NAME = "picture"


@dataclass(frozen=True)
class Request:
    """What every request carries."""

    client: str  # "" for callers without one: they never supersede each other
    number: int
    pack: str | None  # None: the first

    operation: ClassVar[str]

    @classmethod
    def from_json(cls, data: Any, limits: Limits) -> Request:
        """Read a request; InputError names the field that is missing, unknown or out of range."""
        fields = Fields(data)
        client, number = fields.text("client", 64, ""), fields.whole("number", 0, MAX_NUMBER, 0)
        request = cls(client, number, fields.text("pack", 200, None), **cls._own(fields, limits))
        fields.done()
        return request

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        """The fields beyond the common ones."""
        return {}


@dataclass(frozen=True)
class DescribeRequest(Request):
    """What the server has: packs, conditions, parts, limits."""

    operation: ClassVar[str] = "describe"


@dataclass(frozen=True)
class RenderRequest(Request):
    """A drawing in a look."""

    operation: ClassVar[str] = "render"
    look: Look
    condition: str  # one of describe's, or a token that `label_train` gave
    drawing: Drawing
    fit: str = "pad"
    samples: int = 1
    temperature: float = 1.0
    layout_seed: int = 0
    refine: int = 0

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        return {
            "look": fields.nested("look", Look.read),
            "condition": fields.text("condition", 64),
            "drawing": fields.nested("drawing", lambda value, where: Drawing.read(value, where, limits)),
            "fit": fields.choice("fit", FITS, "pad"),
            "samples": fields.whole("samples", 1, limits.samples, 1),
            "temperature": fields.number("temperature", 0, MAX_TEMPERATURE, 1.0),
            "layout_seed": fields.whole("layout_seed", 0, MAX_SEED, 0),
            "refine": fields.whole("refine", 0, limits.refine, 0),
        }


@dataclass(frozen=True)
class GalleryRequest(Request):
    """Looks to choose from."""

    operation: ClassVar[str] = "gallery"
    first_seed: int
    count: int
    psi: float

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        count = fields.whole("count", 1, limits.gallery, 12)
        return {
            "first_seed": fields.whole("first_seed", 0, MAX_SEED - count + 1, 0),
            "count": count,
            "psi": fields.number("psi", -MAX_PSI, MAX_PSI, DEFAULT_PSI),
        }


@dataclass(frozen=True)
class StartRequest(Request):
    """A look's own picture and masks, to begin a drawing from."""

    operation: ClassVar[str] = "start"
    look: Look
    condition: str | None  # a token of `label_train`: the part mask in those classes

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        return {"look": fields.nested("look", Look.read), "condition": fields.token("condition", None)}


@dataclass(frozen=True)
class UploadRequest(Request):
    """A picture of one's own, to invert."""

    operation: ClassVar[str] = "upload"
    picture: bytes
    name: str

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        name = fields.text("name", 200, DEFAULT_NAME)
        return {"picture": fields.picture("picture", limits.upload_bytes), "name": name}


@dataclass(frozen=True)
class InvertRequest(Request):
    """Find an uploaded picture in the generator: a job."""

    operation: ClassVar[str] = "invert"
    token: str
    crop: CropBox | None  # None: the largest square in the middle
    steps: int
    tune: bool
    seed: int

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        return {
            "token": fields.token("token"),
            "crop": fields.nested("crop", CropBox.read, None),
            "steps": fields.whole("steps", 1, 1000, InversionConfig.steps),
            "tune": fields.flag("tune", True),
            "seed": fields.whole("seed", 0, MAX_SEED, 0),
        }


@dataclass(frozen=True)
class JobRequest(Request):
    """How far a job is, and its reply once it is done."""

    operation: ClassVar[str] = "job"
    id: str

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        return {"id": fields.token("id")}


@dataclass(frozen=True)
class CancelRequest(JobRequest):
    """End a job."""

    operation: ClassVar[str] = "cancel"


@dataclass(frozen=True)
class EditRequest(Request):
    """Change an inverted picture where its mask was changed."""

    operation: ClassVar[str] = "edit"
    token: str
    mask: bytes
    kind: str
    feather: float
    whole: bool  # the whole picture; otherwise its square, scaled down for display

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        return {
            "token": fields.token("token"),
            "mask": fields.picture("mask", limits.drawing_bytes),
            "kind": fields.choice("kind", MASK_KINDS, "auto"),
            "feather": fields.number("feather", 0, 32, 1.5),
            "whole": fields.flag("whole", False),
        }


@dataclass(frozen=True)
class TransferRequest(Request):
    """Parts of one look in another one's look."""

    operation: ClassVar[str] = "transfer"
    base: Look
    donor: Look
    parts: tuple[str, ...]

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        base, donor = fields.nested("base", Look.read), fields.nested("donor", Look.read)
        parts = fields.listed("parts", _name, 1, 64)
        return {"base": base, "donor": donor, "parts": parts}


@dataclass(frozen=True)
class MixRequest(Request):
    """The structure of one look with the look of another, by rearranging, or by layers of ws from one on."""

    operation: ClassVar[str] = "mix"
    structure: Look
    look: Look
    layer: int | None

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        structure, look = fields.nested("structure", Look.read), fields.nested("look", Look.read)
        return {"structure": structure, "look": look, "layer": fields.whole("layer", 1, 64, None)}


@dataclass(frozen=True)
class MorphRequest(Request):
    """From one layout to another in one look, as a GIF: a job. Layouts are looks, or drawings of a condition."""

    operation: ClassVar[str] = "morph"
    first: Drawing
    second: Drawing
    look: Look | None  # None: the first one's
    condition: str | None  # of drawings
    through: str
    frames: int
    rate: float

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        ends = {
            name: fields.nested(name, lambda value, where: Drawing.read(value, where, limits))
            for name in ("first", "second")
        }
        return {
            **ends,
            "look": fields.nested("look", Look.read, None),
            "condition": fields.text("condition", 64, None),
            "through": fields.choice("through", THROUGH, "masks"),
            "frames": fields.whole("frames", 2, limits.frames, 24),
            "rate": fields.number("rate", 1, 60, 12.0),
        }


@dataclass(frozen=True)
class LabelRequest(Request):
    """Train a mapper for parts of one's own from one painted sample: a job."""

    operation: ClassVar[str] = "label_train"
    seed: int
    psi: float
    mask: bytes
    classes: tuple[OwnClass, ...]
    condition: str
    kimg: float

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        classes = fields.listed("classes", OwnClass.read, 2, limits.classes)
        if len({each.name for each in classes}) < len(classes):
            raise InputError("classes: two of them have one name; give every part its own")
        return {
            "seed": fields.whole("seed", 0, MAX_SEED),
            "psi": fields.number("psi", -MAX_PSI, MAX_PSI, DEFAULT_PSI),
            "mask": fields.picture("mask", limits.drawing_bytes),
            "classes": classes,
            "condition": fields.choice("condition", ("segmentation", "scribble"), "segmentation"),
            "kimg": fields.number("kimg", 0.05, 10, 0.7),
        }


@dataclass(frozen=True)
class FileRequest(Request):
    """The file behind a token: an inversion as safetensors, own classes as a zipped pack."""

    operation: ClassVar[str] = "file"
    token: str

    @classmethod
    def _own(cls, fields: Fields, limits: Limits) -> dict[str, Any]:
        return {"token": fields.token("token")}


def _name(value: Any, where: str) -> str:
    return str(Fields({"name": value}, where).text("name", 64))


def is_token(condition: str) -> bool:
    """Whether a condition is one of own classes."""
    return condition.startswith("own-") and TOKEN.fullmatch(condition) is not None


REQUESTS: dict[str, type[Request]] = {
    kind.operation: kind
    for kind in (
        DescribeRequest,
        RenderRequest,
        GalleryRequest,
        StartRequest,
        UploadRequest,
        InvertRequest,
        JobRequest,
        CancelRequest,
        EditRequest,
        TransferRequest,
        MixRequest,
        MorphRequest,
        LabelRequest,
        FileRequest,
    )
}


def read_request(operation: str, data: Any, limits: Limits) -> Request:
    """A request by the name of its operation. InputError names the operation or field that is wrong."""
    if operation not in REQUESTS:
        raise InputError(f"unknown operation {shown(operation)}{nearest(operation[:100], REQUESTS)}")
    return REQUESTS[operation].from_json(data, limits)
