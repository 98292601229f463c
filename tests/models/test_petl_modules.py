"""The modules of the parts: their variables and initial values."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.leaves import shapes_of
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.models import petl_modules
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Prefix, Prompts

D = 256


def drawn(module, *inputs):
    """Returns the module's initial variables, {path: array}."""
    # This generator compiles faster than the default one.
    variables = jax.jit(module.init)(jax.random.key(1, impl="unsafe_rbg"), *inputs)
    variables.pop("routing", None)
    (collection,) = variables.values()
    flat = jax.tree_util.tree_leaves_with_path(collection)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in flat}


def x():
    return jnp.zeros((1, 1, D))


def assert_uniform(values, low, high):
    """Checks the bounds, the standard deviation and the mean of a uniform distribution."""
    width = high - low
    assert low <= values.min() < low + 0.01 * width and high - 0.01 * width < values.max() <= high
    np.testing.assert_allclose(values.std(), width / 12**0.5, rtol=0.05)
    assert abs(values.mean() - (low + high) / 2) < 4 * width / 12**0.5 / values.size**0.5


def assert_normal(values, std):
    np.testing.assert_allclose(values.std(), std, rtol=0.15)
    assert abs(values.mean()) < 4 * std / values.size**0.5
    # The distribution is neither truncated nor uniform.
    assert np.abs(values).max() > 2.3 * std


def assert_kaiming(values, fan_in):
    assert_uniform(values, -(fan_in**-0.5), fan_in**-0.5)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("scale", [0.1, "learned"])
def test_leaves_of_an_adapter(norm, scale):
    leaves = drawn(petl_modules.AdapterPart(Adapter(norm=norm, scale=scale), 1e-5), x())
    expected = {f"{layer}/{leaf}" for layer in ("down", "up") for leaf in ("kernel", "bias")}
    expected |= {"ln_3/scale", "ln_3/bias"} if norm else set()
    assert set(leaves) == expected | ({"scale"} if scale == "learned" else set())
    if scale == "learned":
        assert leaves["scale"] == 1 and leaves["scale"].shape == ()
    assert leaves["down/kernel"].shape == (D, 32) and leaves["up/bias"].shape == (D,)


def test_an_adapter_starts_at_zero():
    leaves = drawn(petl_modules.AdapterPart(Adapter(), 1e-5), x())
    assert_kaiming(leaves["down/kernel"], D)
    for name in ("down/bias", "up/kernel", "up/bias"):
        assert not leaves[name].any()


def test_adapter_of_cskt_starts_normal():
    leaves = drawn(petl_modules.AdapterPart(Adapter(init="normal"), 1e-5), x())
    for name in ("down/kernel", "up/kernel"):
        assert_normal(leaves[name], 0.02)
    for name in ("down/bias", "up/bias"):
        assert not leaves[name].any()


def test_leaves_of_each_router():
    leaves = {
        "input": {"w_in"},
        "sum": {"w_in", "w_task", "prompt"},
        "blend": {"w_in", "w_task", "prompt", "alpha"},
    }
    for kind, names in leaves.items():
        for spec in (Moe(router=kind), LoraMoe(router=kind)):
            shapes = jax.eval_shape(petl_modules.Router(spec).init, jax.random.key(0), x())
            assert set(shapes["moe"]) == names


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("scale", [0.5, "learned"])
def test_lora_starts_at_zero(dora, scale):
    leaves = drawn(petl_modules.LoraPart(Lora(rank=16, dora=dora, scale=scale), (D, 48)))
    learned = {"scale"} if scale == "learned" else set()
    assert set(leaves) == {"a", "b"} | learned | ({"magnitude"} if dora else set())
    assert_kaiming(leaves["a"], D)
    assert leaves["a"].shape == (D, 16) and leaves["b"].shape == (16, 48) and not leaves["b"].any()
    for name in learned:
        assert leaves[name] == 1
    if dora:
        np.testing.assert_array_equal(leaves["magnitude"], np.ones(48))


def test_a_mixture_of_lora_starts_at_zero():
    leaves = drawn(petl_modules.LoraMoePart(LoraMoe(rank=4, num_experts=3), 48), x())
    assert set(leaves) == {"router/w_in", "a", "b"}
    assert_kaiming(leaves["a"], D)
    assert_normal(leaves["router/w_in"], 0.02)
    assert leaves["a"].shape == (D, 3, 4) and leaves["b"].shape == (3, 4, 48) and not leaves["b"].any()


@pytest.mark.parametrize(("gate", "scaled"), [(10.0, True), (100.0, False), (None, True), (None, False)])
def test_prefix_starts_small(gate, scaled):
    leaves = drawn(petl_modules.PrefixPart(Prefix(12, gate, scaled), D))
    scalars = {"key_scale", "value_scale"} if scaled else set()
    assert set(leaves) == {"key", "value"} | scalars | (set() if gate is None else {"gate"})
    for name in ("key", "value"):
        assert leaves[name].shape == (12, D)
        assert_uniform(leaves[name], 0, 0.01)
    for name in scalars:
        assert leaves[name] == 1
    if gate is not None:
        assert leaves["gate"] == gate


@pytest.mark.parametrize(
    ("direction", "maps", "counts"),
    [
        ("both", {"to_visual", "to_text"}, (4, 4)),
        ("to_vision", {"to_visual"}, (4, 2)),
        ("to_text", {"to_text"}, (2, 4)),
        ("none", set(), (2, 2)),
    ],
)
def test_prompts_and_their_maps(direction, maps, counts):
    part = petl_modules.PromptPart(Prompts(2, direction=direction), 3, (D, 64))
    leaves = drawn(part)
    expected = {f"{name}/{leaf}" for name in maps for leaf in ("kernel", "bias")} | {"visual", "text"}
    assert set(leaves) == expected
    for name, values in leaves.items():
        if name.endswith("bias"):
            assert not values.any()
        else:
            assert_normal(values, 0.02)
    assert leaves["visual"].shape == (3, 2, D) and leaves["text"].shape == (3, 2, 64)
    tokens = jax.eval_shape(part.init_with_output, jax.random.key(0))[0]
    assert [t.shape for t in tokens] == [(3, counts[0], D), (3, counts[1], 64)]


class Updated(nn.Module):
    """A dense layer with parts on its three column blocks."""

    slots: tuple

    @nn.compact
    def __call__(self, x):
        kernel = jnp.ones((x.shape[-1], 12))
        parts = petl_modules.dense_updates(self.slots, x.shape[-1], 4)
        return petl_modules.apply_updates(x, x @ kernel, kernel, parts)


def test_only_filled_slots_have_leaves_and_updates():
    slots = (("lora_q", LoraMoe(("q",), 2, 3, 1)), ("lora_k", None), ("lora_v", Lora(("v",), 2)))
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)), jnp.float32)
    module = Updated(slots)
    variables = jax.jit(module.init)(jax.random.key(0), rows)
    assert set(variables["lora"]) == {"lora_v"} and set(variables["moe"]) == {"lora_q"}
    variables = jax.tree.map(lambda leaf: leaf + 1, dict(variables))
    changed = module.apply(variables, rows, mutable=["routing"])[0] - rows @ jnp.ones((8, 12))
    moved = np.abs(changed).max((0, 1)) > 1e-3
    assert moved.tolist() == [True] * 4 + [False] * 4 + [True] * 4


def test_parts_of_one_kind_have_separate_leaves():
    """Slots are names in the tree, so two adapters of a block have separate variables."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            spec = Adapter(norm=False)
            first = petl_modules.adapter_module(spec, "beside_ln_1", 1e-5)(x)
            second = petl_modules.adapter_module(dataclasses.replace(spec, reduction=4), "beside_ln_2", 1e-5)(
                x
            )
            return first + second + petl_modules.adapter_module(None, "after_mlp", 1e-5)(x)

    shapes = shapes_of(jax.eval_shape(Two().init, jax.random.key(0), x()))
    assert shapes["adapter/beside_ln_1/down/kernel"] == (D, 32)
    assert shapes["adapter/beside_ln_2/down/kernel"] == (D, 64)
    assert len(shapes) == 8
