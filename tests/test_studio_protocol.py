"""Requests of the studio are read strictly, and whatever is wrong is named; replies are JSON."""

from __future__ import annotations

import json
import math

import pytest
from studio_calls import base64_of

from sis_rearrange.errors import InputError
from sis_rearrange.studio.fields import decode_base64
from sis_rearrange.studio.protocol import REQUESTS, Limits, Look, RenderRequest, is_token, read_request
from sis_rearrange.studio.replies import Part, Stale, to_json

LIMITS = Limits()
RENDER = {"look": {"seed": 3}, "condition": "sketch", "drawing": "aGVsbG8="}
TOKEN = "inv-" + "a" * 24


def test_a_request_has_defaults():
    request = read_request("render", RENDER, LIMITS)
    assert isinstance(request, RenderRequest)
    assert request.look == Look(seed=3) and request.drawing.data == b"hello"
    assert (request.fit, request.samples, request.temperature, request.layout_seed) == ("pad", 1, 1.0, 0)
    assert request.refine == 0
    assert (request.client, request.number, request.pack) == ("", 0, None)


def test_a_data_url_is_taken_as_it_is():
    request = read_request("render", RENDER | {"drawing": "data:image/png;base64,aGVsbG8="}, LIMITS)
    assert request.drawing.data == b"hello"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"look": None}, "look: is missing"),
        ({"look": {}}, "look: give a seed or a picture"),
        ({"look": {"seed": 1, "picture": TOKEN}}, "look: give a seed or a picture"),
        ({"look": {"seed": -1}}, "look.seed: expected a whole number"),
        ({"look": {"seed": True}}, "look.seed: expected a whole number"),
        ({"look": {"seed": "3"}}, "look.seed: expected a whole number"),
        ({"look": {"seed": 2**60}}, "look.seed"),
        ({"look": {"seed": 3, "psi": math.nan}}, "look.psi: expected a number"),
        ({"look": {"seed": 3, "psi": 9}}, "look.psi: expected a number"),
        ({"look": {"seed": 3, "spi": 1}}, r"look: unknown field 'spi'; did you mean 'psi'"),
        ({"look": {"picture": "../../etc/passwd"}}, "look.picture: expected a token"),
        ({"look": [3]}, "look: expected a JSON object, got a list"),
        ({"drawing": 5}, "drawing: expected a picture as base64, got a number"),
        ({"drawing": "!!"}, "drawing: is not base64"),
        ({"drawing": ""}, "drawing: the file is empty"),
        ({"drawing": {"seed": 1.5}}, "drawing.seed: expected a whole number"),
        ({"fit": "padd"}, "fit: expected one of crop, pad, stretch, got 'padd'; did you mean 'pad'"),
        ({"samples": 0}, "samples: expected a whole number from 1 to 8"),
        ({"samples": 9}, "samples: expected a whole number from 1 to 8"),
        ({"temperature": -1}, "temperature: expected a number"),
        ({"refine": 13}, "refine: expected a whole number from 0 to 12"),
        ({"condition": "x" * 65}, "condition: expected a line"),
        ({"condition": "a\nb"}, "condition: expected a line"),
        ({"client": "x" * 65}, "client: expected a line"),
        ({"number": 2**60}, "number: expected"),
        ({"extra": 1}, "request: unknown field 'extra'"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(InputError, match=message) as caught:
        read_request("render", RENDER | change, LIMITS)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("data", [None, [], "x", 3, True])
@pytest.mark.parametrize("operation", sorted(REQUESTS))
def test_what_is_no_object_is_refused(operation, data):
    with pytest.raises(InputError, match="expected a JSON object"):
        read_request(operation, data, LIMITS)


def test_an_unknown_operation_names_the_nearest():
    with pytest.raises(InputError, match="unknown operation 'rendr'; did you mean 'render'"):
        read_request("rendr", {}, LIMITS)


def test_too_many_bytes_are_refused_before_they_are_decoded():
    limits = Limits(drawing_bytes=99)
    text = base64_of(bytes(99))
    assert read_request("render", RENDER | {"drawing": text}, limits).drawing.data == bytes(99)
    with pytest.raises(InputError, match="drawing: more than 99 bytes"):
        read_request("render", RENDER | {"drawing": "!" * 400}, limits)


def test_base64_is_decoded_strictly():
    for text in ("aGVsbG8", "aGVs bG8=", "a" * 5):
        with pytest.raises(InputError, match="x: is not base64"):
            decode_base64(text, "x", 100)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([{"name": "a", "colour": "#000000"}], "classes: expected a list of 2 to 24"),
        ([{"name": "a", "colour": "#000000"}, {"name": "a", "colour": "#ff0000"}], "two of them have one name"),
        ([{"name": " ", "colour": "#000000"}, {"name": "b", "colour": "#ff0000"}], r"classes\[0\].name: is empty"),
        ([{"name": "a", "colour": "red"}, {"name": "b", "colour": "#ff0000"}], r"classes\[0\].colour: expected"),
        ([{"name": "a", "colour": "#00_000"}, {"name": "b", "colour": "#ff0000"}], r"classes\[0\].colour: expected"),
        ([{"name": "a", "colour": [0, 0, 256]}, {"name": "b", "colour": "#ff0000"}], r"classes\[0\].colour"),
    ],
)
def test_own_classes_are_checked(classes, message):
    with pytest.raises(InputError, match=message):
        read_request("label_train", {"seed": 1, "mask": "aGVsbG8=", "classes": classes}, LIMITS)


def test_own_classes_take_both_forms_of_colour():
    classes = [{"name": " sky ", "colour": "#0a0B0c"}, {"name": "sea", "colour": [1, 2, 3]}]
    request = read_request("label_train", {"seed": 1, "mask": "aGVsbG8=", "classes": classes}, LIMITS)
    assert [(c.name, c.colour) for c in request.classes] == [("sky", (10, 11, 12)), ("sea", (1, 2, 3))]


def test_the_largest_upload_fits_into_the_largest_body():
    body = json.dumps({"picture": base64_of(bytes(LIMITS.upload_bytes)), "name": "x" * 200, "client": "y" * 64})
    assert len(body) <= LIMITS.body_bytes


def test_only_tokens_of_own_classes_are_conditions():
    assert is_token("own-" + "a" * 24)
    assert not is_token("own-classes") and not is_token("sketch") and not is_token("inv-" + "a" * 24)


def test_replies_become_json():
    reply = {"a": b"\x00\xff", "b": [Part("x", 1, "#000000")], "c": Stale(), "d": (1, 2.5, None)}
    found = json.loads(json.dumps(to_json(reply)))
    assert found == {
        "a": "AP8=",
        "b": [{"name": "x", "label": 1, "colour": "#000000"}],
        "c": {"stale": True},
        "d": [1, 2.5, None],
    }
