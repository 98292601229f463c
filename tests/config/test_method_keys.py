"""Every setting of every method, and of every module of a mixture, changes the model as its row states.

A row has two values, a function that observes the model with each value, and the expected observations.
Models are built from a config. A setting without a row fails, so that each new setting gets a row.
"""

import dataclasses
import functools
import inspect
import re
from dataclasses import dataclass, field, replace

import jax
import numpy as np
import pytest

from tests import tiny_clip
from tpr_jax import optim
from tpr_jax.config import defaults as config_lib
from tpr_jax.models import clip, methods, petl_config
from tpr_jax.utils.trees import flatten, unflatten

quick_compilation = tiny_clip.quick_compilation

# Two blocks in each tower; width 16 of the vision tower, 8 of the text tower.
SIZES = replace(tiny_clip.CONFIG, vision_layers=2)
# Further settings that a method needs to be valid.
FITTING = {**tiny_clip.SETTINGS, "dm_adapter": {"num_experts": 3, "top_k": 1}, "lora_moe": {"rank": 2}}
FITTING["up_person"] = {"rank": 3, "prefix": 2, "reduction": 4}
FITTING["mixture"] = {}


@dataclass(frozen=True)
class Row:
    """For the two `values` of a setting, `look(method, settings)` returns the two of `expected`.

    `expected` may be a function instead, of the method, the other settings, the key and the value.
    """

    method: str
    key: str
    values: tuple
    look: object
    expected: object
    given: dict = field(default_factory=dict)


def method_of(name: str, settings: dict) -> methods.Method:
    """Builds the method as a run does from its config."""
    config = config_lib.base()
    config.method = {"name": name, **settings}
    config_lib.check(config)
    return config_lib.make_method(config)


def model_of(name: str, settings: dict) -> dict:
    return clip.build(SIZES, method_of(name, settings))


def form(name: str, settings: dict) -> dict:
    """Returns the shape of each leaf, by its path."""
    shapes = clip.declare(SIZES, method_of(name, settings))
    return flatten(shapes)


# Observations of a model


def shape(path: str):
    return lambda name, settings: form(name, settings)[path].shape


def places(pattern: str):
    """Returns the distinct matches of the pattern's group in the paths of the parts' leaves."""

    def look(name, settings):
        found = (re.search(pattern, path) for path in form(name, settings) if not path.startswith("params/"))
        return sorted({match[1] for match in found if match})

    return look


def first_value(path: str):
    """Returns the sum of a leaf's initial values."""

    def look(name, settings):
        return float(
            np.abs(flatten(jax.jit(model_of(name, settings)["init"])(jax.random.key(0)))[path]).sum()
        )

    return look


def starts_at_zero(path: str):
    return lambda name, settings: first_value(path)(name, settings) == 0


def trained(name, settings):
    """Returns the weights of CLIP that are trained."""
    shapes = clip.declare(SIZES, method_of(name, settings))
    split, _ = optim.split_model(shapes, method_of(name, settings))
    return sorted(flatten(split["params"]))


def experts_chosen(name, settings):
    """Returns how many experts each token is routed to, from the routing statistics."""
    model = model_of(name, settings)
    variables = random_variables(name, settings)
    _, routing = jax.jit(model["encode_text"])(variables, tiny_clip.batch(2)["ids"])
    return [round(float(block["chosen"].sum()), 4) for block in routing]


def random_variables(name, settings) -> dict:
    shapes = clip.declare(SIZES, method_of(name, settings))
    return tiny_clip.random_like(shapes, 0)


def features(name, settings, grown=(1.0, 1.0)):
    """Returns both towers' features, with the last matrices of parts (`up`, `b`) scaled in each tower."""
    flat = flatten(random_variables(name, settings))
    for tower, factor in zip(("visual", "text"), grown, strict=True):
        for path in flat:
            if re.fullmatch(rf"(?!params).*/?{tower}/.*(/up/\w+|/b)", path):
                flat[path] = flat[path] * np.float32(factor)
    model, batch, variables = model_of(name, settings), tiny_clip.batch(3), unflatten(flat)
    image, text = (
        np.asarray(jax.jit(model[f"encode_{what}"])(variables, batch[key])[0])
        for what, key in (("image", "image"), ("text", "ids"))
    )
    return np.concatenate([image, text])


def grown_parts(name, settings, key, value):
    """Returns the features at scale 1, with the last matrices of the parts scaled instead."""
    one = (1.0, 1.0) if isinstance(value, tuple) else 1.0
    settings = {**settings, key: one}
    return features(name, settings, value if isinstance(value, tuple) else (value, value))


ROUTERS = {
    "blend": ["alpha", "prompt", "w_in", "w_task"],
    "sum": ["prompt", "w_in", "w_task"],
    "input": ["w_in"],
}
LEARNED = ([], ["scale"])
BLOCKS = (["block_0", "block_1"], ["block_1"])


def of_router(method, given=None):
    at = places(r"/router/(\w+)$")
    pairs = (("blend", "input"), ("sum", "blend"))
    return [Row(method, "router", pair, at, tuple(ROUTERS[k] for k in pair), given or {}) for pair in pairs]


def of_scale(method, key="scale", values=(1.0, -2.0), given=None):
    return Row(method, key, values, features, grown_parts, given or {})


BESIDE = "adapter/visual/block_0/beside_mlp/down/kernel"
QKV = "visual/block_0/attn/qkv/"
PREFIX = "prefix/visual/block_0/attn/prefix/"
EXPERTS = "moe/visual/block_0/beside_mlp/"
FC = "moe/visual/block_0/mlp/fc/lora_fc/"
PROMPT = "prompt/prompts/"
SCALES = ((1.0, 1.0), (2.0, -3.0))
DIRECTIONS = (
    (("both", "none"), (["to_text", "to_visual"], [])),
    (("to_vision", "to_text"), (["to_visual"], ["to_text"])),
)
DEPTHS = (None, 1)

TABLE = [
    Row("dm_adapter", "num_experts", (2, 3), shape(EXPERTS + "router/w_in"), ((16, 2), (16, 3))),
    Row("dm_adapter", "top_k", (1, 2), experts_chosen, ([1.0] * 2, [2.0] * 2)),
    Row("dm_adapter", "reduction", (4, 8), shape(EXPERTS + "down/kernel"), ((16, 3, 4), (16, 3, 2))),
    *of_router("dm_adapter"),
    of_scale("dm_adapter", "scales", SCALES),
    Row("up_person", "rank", (2, 3), shape(f"lora/{QKV}lora_k/a"), ((16, 2), (16, 3))),
    Row("up_person", "prefix", (2, 3), shape(PREFIX + "key"), ((2, 16), (3, 16))),
    Row(
        *("up_person", "reduction", (4, 8), shape("adapter/visual/block_0/beside_ln_1/down/kernel")),
        ((16, 4), (16, 2)),
    ),
    Row("up_person", "version", ("paper", "released"), first_value(PREFIX + "gate"), (10.0, 100.0)),
    Row(
        "up_person",
        "use",
        (("prefix",), ("lora", "adapter")),
        places(r"^(\w+)/"),
        (["prefix"], ["adapter", "lora"]),
    ),
    Row("up_person", "vanilla", (False, True), places(r"/(gate)$"), (["gate"], [])),
    Row("up_person", "depth_lora", DEPTHS, places(r"lora/.*(block_.)"), (BLOCKS[0], ["block_0"])),
    Row("up_person", "depth_prefix", DEPTHS, places(r"prefix/.*(block_.)"), (BLOCKS[0], ["block_0"])),
    Row("up_person", "depth_adapter", (0, 1), places(r"adapter/.*(block_.)"), BLOCKS),
    Row("cskt", "prompts", (1, 2), shape(PROMPT + "visual"), ((2, 1, 16), (2, 2, 16))),
    Row("cskt", "depth", (None, 1), shape(PROMPT + "visual"), ((2, 1, 16), (1, 1, 16))),
    Row("cskt", "reduction", (4, 8), shape(BESIDE), ((16, 4), (16, 2))),
    *(Row("cskt", "direction", values, places(r"/(to_\w+)/"), seen) for values, seen in DIRECTIONS),
    of_scale("cskt", "scales", SCALES),
    Row("parallel_adapter", "reduction", (4, 8), shape(BESIDE), ((16, 4), (16, 2))),
    of_scale("parallel_adapter", "scales", SCALES),
    Row(
        *("sequential_adapter", "reduction", (4, 8), shape("adapter/visual/block_0/after_mlp/down/kernel")),
        ((16, 4), (16, 2)),
    ),
    of_scale("sequential_adapter"),
    Row("sequential_adapter", "scale", (1.0, "learned"), places(r"after_mlp/(scale)$"), LEARNED),
    Row("lora", "targets", (("q", "v"), ("out", "fc")), places(r"lora_(\w+)/"), (["q", "v"], ["fc", "out"])),
    Row("lora", "rank", (2, 3), shape(f"lora/{QKV}lora_q/a"), ((16, 2), (16, 3))),
    of_scale("lora"),
    Row("lora", "scale", (1.0, "learned"), places(r"/(scale)$"), LEARNED),
    Row("lora", "dora", (False, True), places(r"/(magnitude)$"), ([], ["magnitude"])),
    Row("lora", "layers", ((0, None), (1, 2)), places("(block_.)"), BLOCKS),
    Row("prefix", "length", (2, 3), shape(PREFIX + "key"), ((2, 16), (3, 16))),
    Row("prefix", "gate", (10.0, 3.0), first_value(PREFIX + "gate"), (10.0, 3.0)),
    Row("prefix", "gate", (10.0, None), places(r"/(gate)$"), (["gate"], [])),
    Row("prefix", "vanilla", (False, True), places(r"/(gate)$"), (["gate"], [])),
    Row("prefix", "scaled", (True, False), places(r"/(\w+_scale)$"), (["key_scale", "value_scale"], [])),
    Row("prefix", "layers", ((0, None), (1, 2)), places("(block_.)"), BLOCKS),
    Row("prompts", "length", (1, 2), shape(PROMPT + "text"), ((2, 1, 8), (2, 2, 8))),
    Row("prompts", "depth", (None, 1), shape(PROMPT + "text"), ((2, 1, 8), (1, 1, 8)), {"length": 1}),
    *(Row("prompts", "direction", values, places(r"/(to_\w+)/"), seen) for values, seen in DIRECTIONS),
    Row("lora_moe", "targets", (("fc", "proj"), ("q",)), places(r"lora_(\w+)/"), (["fc", "proj"], ["q"])),
    Row("lora_moe", "rank", (2, 3), shape(FC + "a"), ((16, 6, 2), (16, 6, 3))),
    Row("lora_moe", "num_experts", (2, 3), shape(FC + "a"), ((16, 2, 2), (16, 3, 2))),
    Row("lora_moe", "top_k", (1, 3), experts_chosen, ([1.0] * 4, [3.0] * 4)),
    *of_router("lora_moe"),
    of_scale("lora_moe"),
]
TWO = ({"own": {"part": "adapter"}}, {"own": {"part": "lora", "rank": 2}})
COLLECTIONS = (["adapter"], ["lora"])
TABLE += [
    Row("mixture", "both", TWO, places(r"^(\w+)/(?:visual|text)/"), COLLECTIONS),
    Row("mixture", "both", TWO, places(r"^\w+/(?=visual|text)(\w+)/"), (["text", "visual"],) * 2),
    Row("mixture", "vision", TWO, places(r"^(\w+/visual)/"), (["adapter/visual"], ["lora/visual"])),
    Row("mixture", "vision", TWO, places(r"^(\w+/text)/"), ([], [])),
    Row("mixture", "text", TWO, places(r"^(\w+/text)/"), (["adapter/text"], ["lora/text"])),
    Row("mixture", "text", TWO, places(r"^(\w+/visual)/"), ([], [])),
    Row("mixture", "prompts", (None, {"length": 1}), places("^(prompt)/"), ([], ["prompt"])),
    Row("mixture", "prompts", ({"length": 1}, {"length": 2}), shape(PROMPT + "text"), ((2, 1, 8), (2, 2, 8))),
    Row(
        "mixture",
        "tuned",
        (("text/proj",), (".*/proj",)),
        trained,
        (["text/proj"], ["text/proj", "visual/proj"]),
    ),
]


def adapter_at(slot):
    return f"adapter/visual/block_0/{slot}/"


# The same of the parts of a mixture: "method" is the part's name.
PARTS_TABLE = [
    Row(
        "adapter",
        "slot",
        ("beside_ln_1", "after_mlp"),
        places("/((?:beside|after)_\\w+)/"),
        (["beside_ln_1"], ["after_mlp"]),
    ),
    Row("adapter", "reduction", (4, 8), shape(BESIDE), ((16, 4), (16, 2))),
    of_scale("adapter"),
    Row("adapter", "scale", (1.0, "learned"), places("beside_mlp/(scale)$"), LEARNED),
    Row("adapter", "norm", (True, False), places("/(ln_3)/"), (["ln_3"], [])),
    Row(
        "adapter",
        "init",
        ("zero", "normal"),
        starts_at_zero(adapter_at("beside_mlp") + "up/kernel"),
        (True, False),
    ),
    Row("adapter", "layers", ((0, None), (1, 2)), places("(block_.)"), BLOCKS),
    Row(
        "moe",
        "slot",
        ("beside_ln_1", "after_mlp"),
        places("/((?:beside|after)_\\w+)/"),
        (["beside_ln_1"], ["after_mlp"]),
    ),
    Row("moe", "num_experts", (2, 3), shape(EXPERTS + "router/w_in"), ((16, 2), (16, 3))),
    Row("moe", "top_k", (1, 2), experts_chosen, ([1.0] * 2, [2.0] * 2)),
    Row("moe", "reduction", (4, 8), shape(EXPERTS + "down/kernel"), ((16, 6, 4), (16, 6, 2))),
    *of_router("moe"),
    of_scale("moe"),
    Row("moe", "layers", ((0, None), (1, 2)), places("(block_.)"), BLOCKS),
    Row("lora", "targets", (("q", "v"), ("out", "fc")), places(r"lora_(\w+)/"), (["q", "v"], ["fc", "out"])),
    Row("lora", "rank", (2, 3), shape(f"lora/{QKV}lora_k/a"), ((16, 2), (16, 3))),
    of_scale("lora"),
    Row("lora", "scale", (1.0, "learned"), places(r"/(scale)$"), LEARNED),
    Row("lora", "dora", (False, True), places(r"/(magnitude)$"), ([], ["magnitude"])),
    Row("lora", "layers", ((0, None), (1, 2)), places("(block_.)"), BLOCKS),
    Row("lora_moe", "targets", (("fc", "proj"), ("q",)), places(r"lora_(\w+)/"), (["fc", "proj"], ["q"])),
    Row("lora_moe", "rank", (2, 3), shape(FC + "a"), ((16, 6, 2), (16, 6, 3))),
    Row("lora_moe", "num_experts", (2, 3), shape(FC + "a"), ((16, 2, 2), (16, 3, 2))),
    Row("lora_moe", "top_k", (1, 3), experts_chosen, ([1.0] * 4, [3.0] * 4)),
    *of_router("lora_moe"),
    of_scale("lora_moe"),
    Row("lora_moe", "layers", ((0, None), (1, 2)), places("(block_.)"), BLOCKS),
    Row("prefix", "length", (2, 3), shape(PREFIX + "key"), ((2, 16), (3, 16))),
    Row("prefix", "gate", (10.0, 3.0), first_value(PREFIX + "gate"), (10.0, 3.0)),
    Row("prefix", "gate", (10.0, None), places(r"/(gate)$"), (["gate"], [])),
    Row("prefix", "scaled", (True, False), places(r"/(\w+_scale)$"), (["key_scale", "value_scale"], [])),
    Row("prefix", "layers", ((0, None), (1, 2)), places("(block_.)"), BLOCKS),
    Row("prompts", "length", (1, 2), shape(PROMPT + "text"), ((2, 1, 8), (2, 2, 8))),
    Row("prompts", "depth", (None, 1), shape(PROMPT + "text"), ((2, 1, 8), (1, 1, 8))),
    *(Row("prompts", "direction", values, places(r"/(to_\w+)/"), seen) for values, seen in DIRECTIONS),
]
FITTING_PARTS = {
    "lora": {"rank": 2},
    "lora_moe": {"rank": 2},
    "prefix": {"length": 2},
    "prompts": {"length": 1},
}


def label(row: Row) -> str:
    return f"{row.method}.{row.key}"


def check(name, row, settings_of, known):
    """Asserts what the row says; `settings_of(value)` are the settings of the method `name`."""
    expected = []
    for i, value in enumerate(row.values):
        if callable(row.expected):
            # At scale 1 by the same settings: only the weights have grown.
            expected.append(row.expected(name, known, row.key, value))
            np.testing.assert_allclose(row.look(name, settings_of(value)), expected[i], rtol=1e-3, atol=1e-4)
        else:
            expected.append(row.expected[i])
            assert row.look(name, settings_of(value)) == expected[i], value
    if callable(row.expected):
        halves = [np.split(feats, 2) for feats in expected]
        assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(*halves, strict=True))  # in both towers
    return expected


def differ(rows, key) -> bool:
    return any(
        not callable(row.expected) and row.expected[0] != row.expected[1] for row in rows if label(row) == key
    )


def test_every_setting_has_a_row_that_tells_its_values_apart():
    known = {
        f"{name}.{key}"
        for name, make in methods.METHODS.items()
        for key in inspect.signature(make).parameters
    }
    assert {label(row) for row in TABLE} == known
    kinds = {**petl_config.PARTS, "prompts": petl_config.Prompts}
    fields = {f"{name}.{f.name}" for name, kind in kinds.items() for f in dataclasses.fields(kind)}
    assert {label(row) for row in PARTS_TABLE} == fields
    for rows in (TABLE, PARTS_TABLE):
        for row in rows:
            of_scale = any(callable(other.expected) for other in rows if label(other) == label(row))
            assert of_scale or differ(rows, label(row)), label(row)


@pytest.mark.parametrize("row", TABLE, ids=label)
def test_the_setting_does_what_its_row_says(row):
    fitting = {**FITTING.get(row.method, {}), **row.given}
    check(row.method, row, lambda value: {**fitting, row.key: value}, fitting)


@pytest.mark.parametrize("row", PARTS_TABLE, ids=label)
def test_the_setting_of_a_part_does_what_its_row_says(row):
    fitting = {**FITTING_PARTS.get(row.method, {}), **row.given}

    def mixture(settings):
        if row.method == "prompts":
            return {"prompts": settings}
        return {"both": {"own": {"part": row.method, **settings}}}

    if callable(row.expected):
        wrapped = functools.partial(of_mixture, mixture, fitting)
        row = replace(row, expected=wrapped)
    check("mixture", row, lambda value: mixture({**fitting, row.key: value}), fitting)


def of_mixture(mixture, fitting, name, known, key, value):
    """Returns the same as `grown_parts` for a mixture of one part."""
    return features(name, mixture({**fitting, key: 1.0}), (value, value))
