"""Conversion of methods to JSON and back."""

import json

import pytest

from tpr_jax.errors import UserError
from tpr_jax.models.methods import METHODS, Method
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Prefix, Prompts
from tpr_jax.weights.method_json import method_from_json, method_to_json

EVERY_PART = Method(
    "mine",
    (Adapter("after_mlp", 4, "learned", False, "normal", (1, 3)), Lora(("q",), 2, 0.5, True), Moe(top_k=3)),
    (LoraMoe(("out",), 2), Prefix(3, None, False, (0, 2))),
    Prompts(2, 3, "to_text"),
    ("text/proj", ".*/bias"),
)


@pytest.mark.parametrize("method", [*(make() for make in METHODS.values()), EVERY_PART])
def test_round_trip_through_json(method):
    plain = json.loads(json.dumps(method_to_json(method)))
    assert method_from_json(plain, "here") == method


def test_json_layout():
    assert method_to_json(Method("x", (Prefix(3),), tuned=("a",))) == {
        "name": "x",
        "vision": [{"part": "prefix", "length": 3, "gate": 10.0, "scaled": True, "layers": [0, None]}],
        "text": [],
        "prompts": None,
        "tuned": ["a"],
    }


def damaged(**changes):
    return method_to_json(EVERY_PART) | changes


PREFIX = {"part": "prefix", "length": 3, "gate": None, "scaled": False, "layers": [0, 2]}


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "here: is not a set of keys"),
        ({"name": "x", "vision": []}, "here: key 'text' is missing"),
        (
            damaged(text=[{"part": "hyper"}]),
            r"here.text\[0\]: part='hyper' is unknown to this version.*newer",
        ),
        (damaged(text=[{"length": 3}]), r"here.text\[0\]: part=None is unknown"),
        (damaged(text=["prefix"]), r"here.text\[0\]: has the invalid value 'prefix'"),
        (damaged(text="prefix"), "here.text: has the invalid value"),
        (damaged(text=[PREFIX | {"hue": 3}]), r"here.text\[0\]: setting 'hue' is unknown.*newer"),
        (
            damaged(text=[{**PREFIX, "gate": 1}, {"part": "prefix"}]),
            r"here.text\[1\]: setting 'length' is miss",
        ),
        (damaged(prompts=3), "here.prompts: has the invalid value 3"),
        (damaged(prompts={"length": 3}), "here.prompts: setting 'depth' is missing"),
        (damaged(tuned=None), "here.tuned: has the invalid value None"),
    ],
)
def test_rejects_what_this_version_does_not_know(content, message):
    with pytest.raises(UserError, match=message):
        method_from_json(content, "here")
