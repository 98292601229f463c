"""The authors' checkpoints to our models and back, on the golden bundles."""

import re

import numpy as np
import pytest

from tests.reference_bundles import BLOCK, EXPERT, assert_declared, each, read, same, stored
from tpr_jax.models.config import ClipConfig, Heads
from tpr_jax.models.petl_config import Adapter, Lora, Prefix, Prompts
from tpr_jax.weights import reference, reference_names


@pytest.fixture(scope="module")
def bundle():
    """The bundle of DM-Adapter."""
    return stored()


@each
def test_to_our_names_and_back(name):
    """Every weight returns under its name, except for the temperature and unread parameters."""
    state, _, _ = stored(name)
    config, method, heads, variables = read(stored(name), method=name)
    back = reference.state(variables, method, config, heads)
    dead = {n for n in state if re.fullmatch(reference_names.DEAD[name], n.removeprefix("base_model."))}
    expected = {reference_names.canonical(n): n for n in state if n not in dead}
    expected.pop("base_model.logit_scale", None)
    assert set(back) == set(expected) and len(back) > 90
    for theirs, array in back.items():
        np.testing.assert_array_equal(array, np.float32(state[expected[theirs]]), err_msg=theirs)
    assert_declared(config, method, heads, variables)


@each
def test_to_their_names_and_back(name):
    config, method, heads, variables = read(stored(name), method=name)
    state = reference.state(variables, method, config, heads)
    again = reference.read(state, method=name, image_size=config.image_size)
    assert again[:3] == (config, method, heads)
    same(again[3], variables)


@each
def test_converts_a_subset_of_the_leaves(name):
    """Converts the trainable leaves, or their gradients, without the frozen ones."""
    config, method, heads, variables = read(stored(name), method=name)
    own = {key: tree for key, tree in variables.items() if key != "params"}
    back = reference.state(own, method, config, heads)
    assert set(back) == set(reference.split(stored(name)[0], name)[1])


def test_layouts_by_hand(bundle):
    """Their linear layers are (out, in), one per expert; ours are stacked."""
    state, _, _ = bundle
    own = read(bundle)[3]["moe"]["visual"]["block_1"]["beside_mlp"]
    np.testing.assert_array_equal(own["down"]["kernel"][3, 2, 1], state[EXPERT + "down.weight"][1, 3])
    np.testing.assert_array_equal(own["up"]["kernel"][2, 1, 3], state[EXPERT + "up.weight"][3, 1])
    np.testing.assert_array_equal(own["up"]["bias"][2], state[EXPERT + "up.bias"])
    np.testing.assert_array_equal(
        own["router"]["w_in"][3, 1], state[BLOCK + "feed_forward.input_gate.weight"][1, 3]
    )
    np.testing.assert_array_equal(own["router"]["prompt"], state[BLOCK + "task_param"])


def test_layouts_of_cskt_prompt_maps_by_hand():
    """The first layer has other names; `tmap` maps text to vision, (out, in)."""
    state, _, _ = stored("cskt")
    own = read(stored("cskt"), method="cskt")[3]["prompt"]["prompts"]
    np.testing.assert_array_equal(own["text"][0], state["prompt_learner.ctx"])
    np.testing.assert_array_equal(own["visual"][1], state["prompt_learner.compound_prompts_vision.0"])
    np.testing.assert_array_equal(
        own["to_visual"]["kernel"][0, 3, 1], state["prompt_learner.tmap.weight"][1, 3]
    )
    deep = "prompt_learner.compound_prompt_projections_vision.0"
    np.testing.assert_array_equal(own["to_text"]["kernel"][1, 3, 1], state[deep + ".weight"][1, 3])
    np.testing.assert_array_equal(own["to_text"]["bias"][1], state[deep + ".bias"])


def test_layouts_of_up_persons_lora_by_hand():
    """`lora_A.0` and `lora_B.0` belong to the keys, `.1` to the values."""
    state, _, _ = stored("up_person")
    own = read(stored("up_person"), method="up_person")[3]["lora"]["text"]["block_1"]["attn"]["qkv"]
    for target, i in (("lora_k", 0), ("lora_v", 1)):
        theirs = "LORA_learner.lora_text.1."
        np.testing.assert_array_equal(own[target]["a"], state[f"{theirs}lora_A.{i}"].T)
        np.testing.assert_array_equal(own[target]["b"], state[f"{theirs}lora_B.{i}"].T)
        np.testing.assert_array_equal(own[target]["scale"], state[f"{theirs}scale.{i}.scale"])


def test_sizes_are_read_from_the_shapes(bundle):
    _, image_size, args = bundle
    config, method, heads, _variables = read(bundle, scales=(0.1, 4.0))
    assert method.vision[0].num_experts == args["num_experts"] and heads == Heads()
    assert config.image_size == image_size
    state, _, _ = stored("up_person")
    method = read(stored("up_person"), method="up_person")[1]
    (low_rank,), (prefix,) = ([p for p in method.text if isinstance(p, kind)] for kind in (Lora, Prefix))
    assert low_rank.rank == len(state["LORA_learner.lora_text.0.lora_A.0"])
    assert prefix.length == len(state["text_prefix_learner.text_prefix.0.key.tokens"])
    assert (low_rank.layers, prefix.layers) == ((0, None), (0, None))
    state, _, _ = stored("cskt")
    method = read(stored("cskt"), method="cskt")[1]
    assert method.prompts == Prompts(len(state["prompt_learner.ctx"]), 2)
    state, _, args = stored("irra")
    heads = read(stored("irra"), method="irra")[2]
    assert heads == Heads(len(state["classifier.bias"]), args["cmt_depth"])


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        ("lora", r"LORA_learner\..*"),
        ("prefix", r".*prefix_learner\..*"),
        ("adapter", r".*\.(adapter_ln_(msa|mlp)\..*|scale_[12])"),
    ],
)
def test_infers_ablations_of_up_person(part, gone):
    state, _, _ = stored("up_person")
    absent = {name: None for name in state if re.fullmatch(gone, reference_names.canonical(name))}
    assert absent
    config, method, heads, variables = read(stored("up_person"), absent, "up_person")
    assert set(variables) == {"params", "lora", "prefix", "adapter"} - {part}
    assert_declared(config, method, heads, variables)


def test_up_person_modules_in_some_blocks():
    """A smaller depth than the checkpoint's drops blocks; a checkpoint may also have fewer."""
    asked = {"depth_lora": 1, "depth_prefix": 1, "depth_adapter": 1}
    config, method, heads, variables = read(stored("up_person"), None, "up_person", **asked)
    layers = {part.layers for part in method.text if isinstance(part, Adapter)}, method.text[-1].layers
    assert layers == ({(1, None)}, (0, 1))
    assert_declared(config, method, heads, variables)
    back = reference.state(variables, method, config, heads)
    _, found, _, again = reference.read(back, method="up_person", image_size=config.image_size)
    assert found == method
    same(again, variables)


def test_a_prefix_without_a_gate_is_vanilla():
    state, _, _ = stored("up_person")
    gates = {name: None for name in state if name.endswith("scale_to_grad")}
    _, method, _, variables = read(stored("up_person"), gates, "up_person")
    assert gates and method.text[-1].gate is None
    assert "gate" not in variables["prefix"]["text"]["block_0"]["attn"]["prefix"]


def test_accepts_the_second_name_of_a_prefix():
    state, _, _ = stored("up_person")
    own = reference.split(state, "up_person")[1]
    second = {}
    for name in own:
        if found := re.fullmatch(r"(vit|text)_prefix_learner\.\1_prefix\.(\d+)\.(.*)", name):
            tower = "visual." if found[1] == "vit" else ""
            alias = f"base_model.{tower}transformer.resblocks.{found[2]}.attn.prefix.{found[3]}"
            second[alias] = own[name]
    assert len(second) == 2 * 2 * 5
    with_them = read(stored("up_person"), second, "up_person")[3]
    instead = read(
        stored("up_person"), {**second, **{n: None for n in own if "_prefix_learner" in n}}, "up_person"
    )[3]
    same(with_them, read(stored("up_person"), None, "up_person")[3])
    same(instead, with_them)


@pytest.mark.parametrize(("router", "leaves"), [("sum", {"w_in", "w_task", "prompt"}), ("input", {"w_in"})])
def test_other_routers_ignore_unread_weights(bundle, router, leaves):
    """They may be in the checkpoint or not."""
    state, _, _ = bundle
    alphas = {name: None for name in state if name.endswith("feed_forward.alpha")}
    for changes in ({}, alphas):
        config, method, heads, variables = read(bundle, changes, router=router)
        assert set(variables["moe"]["text"]["block_0"]["beside_mlp"]["router"]) == leaves
        assert_declared(config, method, heads, variables)
    back = reference.state({"moe": variables["moe"]}, method, config)
    assert not [name for name in back if name.endswith("feed_forward.alpha")]


def test_ignores_parameters_that_nothing_reads(bundle):
    state, _, _ = bundle
    dead = [name for name in state if "param" in name.split(".")[1] or "v2i_proj" in name]
    assert dead
    same(read(bundle)[3], read(bundle, dict.fromkeys(dead))[3])


@each
def test_drops_the_prefix_of_data_parallel_training(name):
    state, image_size, _ = stored(name)
    wrapped = {"module." + key: array for key, array in state.items()}
    found = reference.read(wrapped, method=name, image_size=image_size)
    same(found[3], read(stored(name), method=name)[3])


def test_accepts_settings_that_agree_with_the_shapes():
    use = ["prefix", "lora", "adapter"]
    method = read(stored("up_person"), None, "up_person", rank=4, use=use, version="released")[1]
    assert method.text[-1].gate == 100.0
    method = read(stored("cskt"), None, "cskt", depth=2, scales=(1.0, 2.0))[1]
    assert (method.vision[0].scale, method.text[0].scale) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("widths", "asked", "expected"),
    [((768, 512), None, 8), ((64, 128), 20, 20), ((64, 128), None, 21), ((64, 128), 8, 21)],
)
def test_infers_a_reduction_that_does_not_divide_the_width(widths, asked, expected):
    """64 // 20 = 64 // 21 = 3 and 128 // 20 = 128 // 21 = 6: the setting decides between them."""
    config = ClipConfig(vision_width=widths[0], text_width=widths[1])
    ranks = (96, 64) if expected == 8 else (3, 6)
    leaf = "feed_forward.experts.0.down.bias"
    name = "transformer.resblocks.0." + leaf
    parts = {"base_model.visual." + name: np.zeros(ranks[0]), "base_model." + name: np.zeros(ranks[1])}
    assert reference._reduction(config, parts, leaf, {"reduction": asked}) == expected
