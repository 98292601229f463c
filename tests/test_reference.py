"""The authors' checkpoints there and back, on the golden bundle; and what is wrong with one is named."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights import reference

BUNDLE = Path(__file__).parent / "golden" / "dm_adapter.safetensors"
BLOCK = "base_model.visual.transformer.resblocks.1."
EXPERT = BLOCK + "feed_forward.experts.2."


@pytest.fixture(scope="module")
def bundle():
    """(the authors' state dict, image size, the recipe)."""
    with safe_open(BUNDLE, "np") as file:
        meta = file.metadata()
        names = [name for name in file.keys() if name.startswith("state/")]  # noqa: SIM118 (not a dict)
        state = {name.removeprefix("state/"): file.get_tensor(name) for name in names}
    return state, tuple(json.loads(meta["size"])["img"]), json.loads(meta["args"])


def read(bundle, changes=None, **settings):
    """Reads the bundle's state with some weights changed; a weight changed to None is taken out."""
    state, image_size, _ = bundle
    state = {k: v for k, v in {**state, **(changes or {})}.items() if v is not None}
    return reference.read(state, method="dm_adapter", image_size=image_size, **settings)


def test_there_and_back(bundle):
    """Every weight of the authors' returns under its name, but CLIP's and those that nothing reads."""
    state, _, _ = bundle
    _, parts = reference.split(state, "dm_adapter")
    back = reference.dm_adapter_state(reference.dm_adapter_tree(parts))
    assert set(back) == {reference.PREFIX + name for name in parts} and len(back) > 50
    for name, array in back.items():
        np.testing.assert_array_equal(array, np.asarray(state[name], np.float32), err_msg=name)


def test_and_there_again(bundle):
    _, _, variables = read(bundle)
    state = reference.state({"moe": variables["moe"]}, "dm_adapter")
    _, parts = reference.split(state, "dm_adapter")
    jax.tree.map(np.testing.assert_array_equal, reference.dm_adapter_tree(parts), variables["moe"])


def test_layouts_by_hand(bundle):
    """Their Linears are (out, in), one an expert; ours are stacked."""
    state, _, _ = bundle
    own = read(bundle)[2]["moe"]["visual"]["block_1"]["beside_mlp"]
    np.testing.assert_array_equal(own["down"]["kernel"][3, 2, 1], state[EXPERT + "down.weight"][1, 3])
    np.testing.assert_array_equal(own["up"]["kernel"][2, 1, 3], state[EXPERT + "up.weight"][3, 1])
    np.testing.assert_array_equal(own["up"]["bias"][2], state[EXPERT + "up.bias"])
    np.testing.assert_array_equal(
        own["router"]["w_in"][3, 1], state[BLOCK + "feed_forward.input_gate.weight"][1, 3]
    )
    np.testing.assert_array_equal(own["router"]["prompt"], state[BLOCK + "task_param"])


def test_sizes_are_read_from_the_shapes_and_the_tree_is_the_models(bundle):
    _, image_size, args = bundle
    config, method, variables = read(bundle, scales=(0.1, 4.0))
    assert method.vision.beside_mlp.num_experts == args["num_experts"]
    assert config.image_size == image_size
    declared = jax.eval_shape(clip.build(config, method)["init"], jax.random.key(0))
    shapes = jax.tree.map(np.shape, variables)
    assert shapes == jax.tree.map(lambda x: x.shape, declared)


@pytest.mark.parametrize(("router", "leaves"), [("sum", {"w_in", "w_task", "prompt"}), ("input", {"w_in"})])
def test_other_routers_leave_out_what_they_do_not_read(bundle, router, leaves):
    """Whether it is in the checkpoint or not."""
    state, _, _ = bundle
    alphas = {name: None for name in state if name.endswith("feed_forward.alpha")}
    for changes in ({}, alphas):
        config, method, variables = read(bundle, changes, router=router)
        assert set(variables["moe"]["text"]["block_0"]["beside_mlp"]["router"]) == leaves
        declared = jax.eval_shape(clip.build(config, method)["init"], jax.random.key(0))
        assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, declared)
    back = reference.dm_adapter_state(variables["moe"])
    assert not [name for name in back if name.endswith("feed_forward.alpha")]


def test_parameters_that_nothing_reads_are_passed_over(bundle):
    state, _, _ = bundle
    dead = [name for name in state if "param" in name.split(".")[1] or "v2i_proj" in name]
    assert dead
    with_them, without = read(bundle)[2], read(bundle, dict.fromkeys(dead))[2]
    jax.tree.map(np.testing.assert_array_equal, with_them, without)


def test_prefix_of_data_parallel_training_is_dropped(bundle):
    state, image_size, _ = bundle
    wrapped = {"module." + name: array for name, array in state.items()}
    _, _, found = reference.read(wrapped, method="dm_adapter", image_size=image_size)
    jax.tree.map(np.testing.assert_array_equal, found, read(bundle)[2])


@pytest.mark.parametrize(
    "name",
    [
        EXPERT + "up.bias",
        BLOCK + "task_param",
        BLOCK + "feed_forward.input_gate.weight",
        "base_model.visual.transformer.resblocks.0.feed_forward.input_gate.weight",
        "base_model.visual.transformer.resblocks.0.mlp.c_fc.weight",
        "base_model.text_projection",
        "base_model.visual.positional_embedding",
    ],
)
def test_missing_weight_is_named(bundle, name):
    assert name in bundle[0]
    # The first block's weights are looked up under the block, so their message may leave out its stem.
    with pytest.raises(UserError, match=name.removeprefix("base_model.").split("resblocks.0.")[-1]):
        read(bundle, {name: None})


def test_a_block_without_its_mixture_is_named(bundle):
    gone = [
        k for k in bundle[0] if k.startswith(BLOCK) and ("feed_forward" in k or "ln_3" in k or "task" in k)
    ]
    assert len(gone) > 10
    with pytest.raises(UserError, match=r"visual\.transformer\.resblocks\.1\.feed_forward"):
        read(bundle, dict.fromkeys(gone))


def test_clip_alone_is_no_dm_adapter(bundle):
    state, image_size, _ = bundle
    clip_alone, _ = reference.split(state, "dm_adapter")
    with pytest.raises(UserError, match="lacks the weight.*input_gate"):
        reference.read(clip_alone, method="dm_adapter", image_size=image_size)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.visual.transformer.resblocks.0.mlp.c_other.weight",
        "classifier.weight",
        BLOCK + "feed_forward.experts.99.up.bias",
        BLOCK.replace(".1.", ".77.") + "task_param",
    ],
)
def test_surplus_weight_is_named(bundle, name):
    with pytest.raises(UserError, match=name.removeprefix("base_model.")):
        read(bundle, {name: np.zeros(4, np.float32)})


@pytest.mark.parametrize("name", [EXPERT + "up.bias", BLOCK + "task_param"])
def test_misshapen_weight_is_named(bundle, name):
    wrong = np.zeros([n + 1 for n in bundle[0][name].shape], np.float32)
    with pytest.raises(UserError, match=name.removeprefix("base_model.") + "' has shape .*expected"):
        read(bundle, {name: wrong})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": 99}, "num_experts=99"),
        ({"reduction": 3}, "reduction=3 was asked for, but the weights have reduction=8"),
        ({"top_k": 99}, "top_k=99"),
        ({"router": "blnd"}, "blend"),
        ({"rank": 32}, "'rank'.*top_k"),
    ],
)
def test_settings_that_do_not_fit_are_named(bundle, settings, message):
    with pytest.raises(UserError, match=message):
        read(bundle, **settings)


def test_unknown_method(bundle):
    with pytest.raises(UserError, match="'dm_adaptor'.*dm_adapter"):
        reference.read(bundle[0], method="dm_adaptor")


@pytest.mark.parametrize(
    ("widths", "asked", "expected"),
    [((768, 512), None, 8), ((64, 128), 20, 20), ((64, 128), None, 21), ((64, 128), 8, 21)],
)
def test_reduction_of_widths_that_it_does_not_divide(widths, asked, expected):
    """64 // 20 = 64 // 21 = 3 and 128 // 20 = 128 // 21 = 6: the widths leave it open, a setting decides."""
    config = ClipConfig(vision_width=widths[0], text_width=widths[1])
    ranks = (96, 64) if expected == 8 else (3, 6)
    name = "transformer.resblocks.0.feed_forward.experts.0.down.bias"
    parts = {"visual." + name: np.zeros(ranks[0]), name: np.zeros(ranks[1])}
    assert reference._reduction(config, parts, asked) == expected
