"""What the buttons do, over the tiny pack: the same as the facade and the editor do, whole and to the bit."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from conftest import SIDE, TAP, K, tiny_head
from PIL import Image
from studio_calls import base64_of, call, picture_of, pixels

from sis_rearrange.editing import Editor, transfer
from sis_rearrange.errors import InputError
from sis_rearrange.studio.refusals import Gone
from sis_rearrange.studio.service import Studio
from sis_rearrange.studio.values import Limits
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.tensors import to_uint8

LOOK = {"seed": 3, "psi": 0.8}
NOISE = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def studio(tiny_pack):
    found = Studio([tiny_pack], device="cpu", backend="torch")
    yield found
    found.close()


@pytest.fixture(scope="module")
def synth(tiny_pack):
    return Synthesizer(tiny_pack, "cpu", "torch")


def drawing_of(pack, condition, number=1):
    return base64_of(pack.read(f"drawings/{condition}-{number}.png"))


def test_describe_says_what_there_is(studio, tiny_pack):
    found = call(studio, "describe")
    assert found["pack"] == tiny_pack.name and found["packs"] == [tiny_pack.name]
    assert (found["resolution"], found["img_resolution"], len(found["clusters"])) == (TAP, SIDE, K)
    assert {*tiny_pack.conditions(), "exemplar", "proxy"} == set(found["conditions"])
    assert [part["name"] for part in found["parts"]] == list(tiny_pack.classes)
    assert found["parts"][0]["colour"].startswith("#") and found["limits"]["samples"] == Limits().samples
    assert found["can_edit_parts"] and found["can_transfer"]
    assert str(tiny_pack.path) not in str(found)


@pytest.mark.parametrize("condition", ["segmentation", "sketch", "scribble"])
def test_render_is_the_facades_picture(studio, synth, tiny_pack, condition):
    source = synth.set_source(seed=3, psi=0.8)
    wanted = synth.synthesize(tiny_pack.file(f"drawings/{condition}-2.png"), condition)
    request = {"look": LOOK, "condition": condition, "drawing": drawing_of(tiny_pack, condition, 2)}
    found = call(studio, "render", **request)
    assert (pixels(found["image"]) == np.asarray(wanted.image)).all()
    assert (np.asarray(picture_of(found["proxy_mask"])) == wanted.proxy_mask).all()
    assert (pixels(found["source_image"]) == np.asarray(synth.source_image(source))).all()
    assert picture_of(found["image"]).info["seed"] == "3" and found["metadata"] == wanted.metadata
    confidence = np.frombuffer(base64.b64decode(found["confidence"]), np.uint8).reshape(TAP, TAP)
    assert np.abs(confidence / 255 - wanted.confidence).max() <= 0.5 / 255 + 1e-6
    assert found["box"] == [0, 0, 1, 1] and found["warnings"] == [] and found["alternatives"] == []
    again = call(studio, "render", **request)
    assert {k: v for k, v in found.items() if k != "milliseconds"} == {
        k: v for k, v in again.items() if k != "milliseconds"
    }


def test_a_cell_that_stays_comes_from_itself(studio):
    """Its own layout asks every cell for its own cluster: what the correspondence says must be a cell of that."""
    found = call(studio, "render", look=LOOK, condition="exemplar", drawing={"seed": 3})
    cells = np.frombuffer(base64.b64decode(found["correspondence"]), np.uint8).reshape(TAP, TAP, 2)
    assert cells.max() < TAP
    mask, own = (np.asarray(picture_of(found[name])) for name in ("proxy_mask", "source_proxy_mask"))
    assert (mask == own).all()


def test_a_drawing_that_is_not_square_says_where_it_lies(studio, tiny_pack):
    labels = np.asarray(Image.open(io.BytesIO(tiny_pack.read("drawings/segmentation-1.png"))))
    wide = Image.fromarray(labels[16:48])
    wide.putpalette(Image.open(io.BytesIO(tiny_pack.read("drawings/segmentation-1.png"))).getpalette())
    found = call(studio, "render", look=LOOK, condition="segmentation", drawing=base64_of(wide))
    assert picture_of(found["image"]).size == (SIDE, SIDE // 2) and found["box"] == [0, 0.25, 1, 0.75]
    cropped = call(studio, "render", look=LOOK, condition="segmentation", drawing=base64_of(wide), fit="crop")
    assert picture_of(cropped["image"]).size == (SIDE, SIDE) and cropped["box"] == [0, 0, 1, 1]


def test_several_layouts_are_the_facades(studio, synth, tiny_pack):
    synth.set_source(seed=3, psi=0.8)
    path = tiny_pack.file("drawings/scribble-1.png")
    wanted = synth.synthesize(path, "scribble", samples=3, temperature=2.0, seed=5)
    found = call(
        studio,
        "render",
        look=LOOK,
        condition="scribble",
        drawing=drawing_of(tiny_pack, "scribble"),
        samples=3,
        temperature=2.0,
        layout_seed=5,
    )
    pictures = [found["image"], *(each["image"] for each in found["alternatives"])]
    assert len(pictures) == 3
    for text, result in zip(pictures, wanted.samples, strict=True):
        assert (pixels(text) == np.asarray(result.image)).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_refined_pictures_are_the_facades(studio, synth, tiny_pack, samples):
    synth.set_source(seed=3, psi=0.8)
    wanted = synth.synthesize(tiny_pack.file("drawings/scribble-1.png"), "scribble", samples=samples, refine=2)
    drawing = drawing_of(tiny_pack, "scribble")
    found = call(studio, "render", look=LOOK, condition="scribble", drawing=drawing, samples=samples, refine=2)
    pictures = [found["image"], *(each["image"] for each in found["alternatives"])]
    for text, result in zip(pictures, wanted.samples, strict=True):
        assert (pixels(text) == np.asarray(result.image)).all()
    assert "--refine 2" in found["command"] and found["metadata"]["refine"] == "2"


def test_a_painted_proxy_mask_is_taken_to_the_letter(studio):
    labels = np.random.default_rng(0).integers(0, K, (TAP, TAP)).astype(np.uint8)
    found = call(studio, "render", look=LOOK, condition="proxy", drawing=base64_of(Image.fromarray(labels)))
    assert (np.asarray(picture_of(found["proxy_mask"])) == labels).all()


def test_colours_that_are_not_quite_the_palettes_are_said(studio, tiny_pack):
    image = Image.open(io.BytesIO(tiny_pack.read("drawings/segmentation-1.png"))).convert("RGB")
    array = np.asarray(image).copy()
    array[..., 0] = np.clip(array[..., 0].astype(int) + 3, 0, 255)
    found = call(studio, "render", look=LOOK, condition="segmentation", drawing=base64_of(array))
    assert len(found["warnings"]) == 1 and "levels off" in found["warnings"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refine": 6}, "refine: is for segmentation and scribble"),
        ({"condition": "sketsch"}, "unknown condition 'sketsch'; did you mean 'sketch'"),
        ({"drawing": base64_of(np.full((32, 32), 255, np.uint8))}, "drawing: the drawing is empty|drawing: .*line"),
        ({"drawing": base64_of(b"no picture at all")}, "drawing: not a picture in a known format"),
        ({"drawing": base64_of(NOISE), "condition": "segmentation"}, "drawing: has more than 20,000 colours"),
        (
            {"drawing": base64_of(NOISE[:64, :64]), "condition": "scribble"},
            r"drawing: \d+ % of the pixels have colours",
        ),
        ({"drawing": base64_of(np.zeros((1025, 1024), np.uint8)), "condition": "proxy"}, "drawing: .* too many"),
        ({"drawing": {"seed": 4}}, "drawing: sketch takes a picture file"),
        ({"drawing": "aGVsbG8=", "condition": "exemplar"}, "drawing: an exemplar is a seed or an inverted picture"),
        ({"drawing": {"seed": 4, "psi": 0.1}, "condition": "exemplar"}, "drawing.psi: an exemplar's sample"),
        ({"drawing": {"seed": 4}, "condition": "exemplar", "samples": 2}, "one sample is all there is"),
        ({"pack": "nowhere"}, "pack: this server has tiny, not 'nowhere'"),
    ],
)
def test_a_request_that_cannot_be_drawn_says_why(studio, tiny_pack, change, message):
    request = {"look": LOOK, "condition": "sketch", "drawing": drawing_of(tiny_pack, "sketch")} | change
    with pytest.raises(InputError, match=message) as caught:
        call(studio, "render", **request)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("condition", ["own-" + "a" * 24, "sketch"])
def test_unknown_tokens_are_gone(studio, tiny_pack, condition):
    look = LOOK if condition != "sketch" else {"picture": "inv-" + "a" * 24}
    with pytest.raises(Gone):
        call(studio, "render", look=look, condition=condition, drawing=drawing_of(tiny_pack, "sketch"))


def test_the_gallery_shows_looks(studio, synth):
    found = call(studio, "gallery", first_seed=5, count=3, psi=0.7)
    assert [each["seed"] for each in found["looks"]] == [5, 6, 7]
    wanted = synth.source_image(synth.set_source(seed=6, psi=0.7))
    assert (pixels(found["looks"][1]["image"]) == np.asarray(wanted)).all()


def test_start_gives_what_drawings_can_begin_from(studio, tiny_pack):
    found = call(studio, "start", look=LOOK)
    assert np.asarray(picture_of(found["proxy_mask"])).shape == (TAP, TAP)
    assert np.asarray(picture_of(found["part_mask"])).shape == (SIDE, SIDE)
    assert set(found["drawings"]) <= set(tiny_pack.conditions()) and "sketch" in found["drawings"]
    again = call(studio, "render", look=LOOK, condition="proxy", drawing=found["proxy_mask"])
    assert (np.asarray(picture_of(again["proxy_mask"])) == np.asarray(picture_of(found["proxy_mask"]))).all()
    assert picture_of(found["drawings"]["sketch"]).size == (256, 256)


def test_mix_and_transfer_are_the_editors(studio, tiny_pack):
    editor = Editor(tiny_pack, "cpu")
    first, second = editor.look(3, 0.9), editor.look(8, 0.9)
    seen = [{int(v) for v in editor.parts(look.picture()).unique()} for look in (first, second)]
    part = tiny_pack.classes[min(seen[0] & seen[1])]
    looks = {"base": {"seed": 3}, "donor": {"seed": 8}}
    found = call(studio, "transfer", parts=[part], **looks)
    wanted = to_uint8(transfer(editor, first, second, [part]))[0]
    assert (pixels(found["image"]) == wanted).all()
    layers = call(studio, "mix", structure={"seed": 3}, look={"seed": 8}, layer=2)
    whole = call(studio, "mix", structure={"seed": 3}, look={"seed": 8})
    assert (pixels(layers["image"]) != pixels(whole["image"])).any()


@pytest.mark.parametrize(
    ("operation", "request_", "message"),
    [
        ("mix", {"structure": {"seed": 1}, "look": {"seed": 2}, "layer": 60}, "--layer 60"),
        ("mix", {"structure": {"seed": 1, "psi": 0.5}, "look": {"seed": 2}}, "psi: all looks take one truncation"),
        ("transfer", {"base": {"seed": 1}, "donor": {"seed": 2}, "parts": ["wings"]}, "unknown part 'wings'"),
        ("transfer", {"base": {"seed": 1}, "donor": {"seed": 2}, "parts": []}, "parts: expected a list"),
        ("morph", {"first": "aGVsbG8=", "second": "aGVsbG8="}, "condition: is missing"),
        ("morph", {"first": {"seed": 1}, "second": {"seed": 2}, "condition": "sketch"}, "first, second"),
        ("morph", {"first": {"seed": 1}, "second": {"seed": 2}, "frames": 500}, "frames: expected"),
        ("upload", {"picture": "aGVsbG8="}, "picture: not a picture"),
        ("file", {"token": "inv-" + "a" * 24}, "not known here"),
        ("job", {"id": "job-" + "a" * 24}, "not known here"),
        ("cancel", {"id": "job-" + "a" * 24}, "not known here"),
        ("invert", {"token": "up-" + "a" * 24}, "not known here"),
        ("edit", {"token": "inv-" + "a" * 24, "mask": "aGVsbG8="}, "not known here"),
    ],
)
def test_other_requests_say_what_is_wrong_too(studio, operation, request_, message):
    with pytest.raises(InputError, match=message):
        call(studio, operation, **request_)


def test_an_upload_tells_its_size(studio):
    picture, _ = tiny_head(60)
    wide = np.concatenate([picture, picture[:, :20]], axis=1)
    found = call(studio, "upload", picture=base64_of(wide), name="a/me you.JPG")
    assert (found["width"], found["height"], found["name"]) == (80, 60, "me_you.JPG")
    assert found["crop"] == {"x": 10, "y": 0, "size": 60} and "not square" in found["warnings"][0]
    with pytest.raises(InputError, match="crop: must be a square"):
        call(studio, "invert", token=found["token"], crop={"x": 30, "y": 0, "size": 60})
    with pytest.raises(InputError, match="only inverted pictures and own classes"):
        call(studio, "file", token=found["token"])


def test_two_clients_keep_apart(studio, tiny_pack):
    """Answers to interleaved requests of two people are what each would get alone."""
    drawings = [drawing_of(tiny_pack, "segmentation", n) for n in (1, 2)]
    alone = [
        call(studio, "render", look={"seed": n}, condition="segmentation", drawing=drawings[n])["image"] for n in (0, 1)
    ]
    futures = []
    for number in range(1, 6):
        for n in (0, 1):
            request = {"look": {"seed": n}, "condition": "segmentation", "drawing": drawings[n]}
            futures.append((n, studio.submit("render", request | {"client": f"client{n}", "number": number})))
    answers = [(n, future.result(60)) for n, future in futures]
    kept = [(n, base64_of(reply.image)) for n, reply in answers if not hasattr(reply, "stale")]
    assert {n for n, _ in kept} == {0, 1}
    assert all(image == alone[n] for n, image in kept)


def test_no_thread_keeps_gradients(studio):
    assert torch.is_grad_enabled()
