"""The products of a method: worked by hand for small towers, and against the traced program."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.interpreters import partial_eval

from tests import tiny_clip as tiny
from tests import tiny_siglip
from tpr_jax import optim
from tpr_jax.models import clip, methods
from tpr_jax.models.config import ClipConfig, Heads
from tpr_jax.perf import flops
from tpr_jax.train import objective

# 2 patches and the class token; two blocks of width 8; texts of 5 tokens, one block of width 4.
SIZES = ClipConfig(
    image_size=(8, 4),
    patch_size=4,
    vision_width=8,
    vision_layers=2,
    vision_heads=2,
    vision_mlp=16,
    text_width=4,
    text_layers=1,
    text_heads=1,
    text_mlp=8,
    context_length=5,
    vocab_size=11,
    embed_dim=6,
)
# Forward, for a batch of 2. Each product takes 2 * batch * rows * inputs * outputs.
PATCHES = 2 * 2 * 2 * 48 * 8
WHOLE = {"qkv": 3 * 2 * 2 * 3 * 8 * 8, "attention": 2 * 2 * 2 * 3 * 3 * 8, "out": 2 * 2 * 3 * 8 * 8}
WHOLE |= {"mlp": 2 * 2 * 2 * 3 * 8 * 16}
# The last block has one query; its keys and values are those of all three tokens.
LAST = {"q": 2 * 2 * 8 * 8, "kv": 2 * 2 * 2 * 3 * 8 * 8, "attention": 2 * 2 * 2 * 3 * 8}
LAST |= {"out": 2 * 2 * 8 * 8, "mlp": 2 * 2 * 2 * 8 * 16}
PROJ = 2 * 2 * 8 * 6
# The text's only block is its last.
TEXT = {"q": 2 * 2 * 4 * 4, "kv": 2 * 2 * 2 * 5 * 4 * 4, "attention": 2 * 2 * 2 * 5 * 4}
TEXT |= {"out": 2 * 2 * 4 * 4, "mlp": 2 * 2 * 2 * 4 * 8}
TEXT_PROJ = 2 * 2 * 4 * 6
LOSS = 2 * 2 * 2 * 6
VISION = PATCHES + sum(WHOLE.values()) + sum(LAST.values()) + PROJ


def of(method: methods.Method, **settings) -> dict:
    return flops.total(flops.train_step(SIZES, method, 2, **settings))


def test_forward_worked_by_hand():
    assert (VISION, sum(TEXT.values()) + TEXT_PROJ) == (13248, 1280)
    frozen = methods.zero_shot()
    assert of(frozen)["forward"] == 13248 + 1280 + LOSS
    assert flops.total(flops.encode(SIZES, frozen, "vision", 2))["total"] == 13248
    assert flops.total(flops.encode(SIZES, frozen, "text", 2))["total"] == 1280


def test_further_captions_take_no_further_images():
    """Of a batch of 2 images with 3 captions each, the loss compares 6 x 6."""
    assert of(methods.zero_shot(), captions_per_image=3)["forward"] == 13248 + 3 * 1280 + 9 * LOSS


def test_dropped_patches_pass_through_no_block():
    """One of two patches and the class token: two tokens instead of three."""
    whole = WHOLE["qkv"] * 2 / 3 + WHOLE["attention"] * 4 / 9 + (WHOLE["out"] + WHOLE["mlp"]) * 2 / 3
    last = LAST["q"] + LAST["out"] + LAST["mlp"] + (LAST["kv"] + LAST["attention"]) * 2 / 3
    vision = PATCHES + whole + last + PROJ
    assert of(methods.zero_shot(), kept_patches=1)["forward"] == pytest.approx(vision + 1280 + LOSS)


def test_a_frozen_model_needs_only_the_gradient_of_the_loss():
    assert of(methods.zero_shot())["backward"] == 2 * LOSS


def test_adapters_need_gradients_after_the_first_adapter_only():
    """Frozen weights need no gradients, but from the second block on their inputs do; widths 2 and 1."""
    first, last, text = (2 * 2 * 2 * 3 * 8 * 2, 2 * 2 * 2 * 8 * 2, 2 * 2 * 2 * 4 * 1)
    found = of(methods.parallel_adapter(reduction=4))
    assert found["forward"] == 13248 + 1280 + LOSS + first + last + text
    # Queries times keys, and attention weights times values: both operands need gradients.
    through = sum(LAST.values()) + LAST["attention"] + PROJ + TEXT_PROJ
    assert found["backward"] == 2 * (first + last + text) + through + 2 * LOSS


def test_mixture_computes_selected_experts_and_routes_all_tokens():
    """With 2 of 3 experts of width 2, the last block's router sees all tokens, its experts one."""
    mixture = methods.Method("mixture", (methods.Moe(num_experts=3, top_k=2, reduction=4, layers=(1, 2)),))
    router, experts = 2 * 2 * 3 * 8 * 3, 2 * 2 * 2 * 8 * (2 * 2)
    attention = WHOLE["qkv"] + WHOLE["attention"] + WHOLE["out"] - LAST["q"] - LAST["kv"]
    attention += -LAST["attention"] - LAST["out"]
    found = of(mixture)
    assert found["forward"] == 13248 + 1280 + LOSS + router + experts + attention
    assert found["backward"] == 2 * (router + experts) + PROJ + 2 * LOSS
    more = 2 * 2 * 2 * 8 * (3 * 2) - experts + 2 * 2 * 3 * 8  # a third expert, and the biases as a product
    assert of(mixture, all_experts=True)["forward"] == found["forward"] + more


def test_full_fine_tuning_needs_all_gradients_but_that_of_the_pixels():
    found = of(methods.full_finetune())
    assert found["backward"] == 2 * found["forward"] - PATCHES


def test_losses():
    pairs, frozen = 2 * 2 * 2 * 6, methods.zero_shot()
    assert of(frozen, losses=("cmpm", "balance"))["forward"] == 13248 + 1280 + 2 * pairs
    with_id = of(frozen, losses=("sdm", "id"), heads=Heads(num_classes=7))
    assert with_id["forward"] == 13248 + 1280 + pairs + 2 * 2 * 2 * 6 * 7


def test_vit_b16_at_384_x_128():
    """An image of 193 tokens takes 24 d^2 per token and block, and 4 l d for the attention."""
    d, l = 768, 193
    block = 24 * d * d * l + 4 * l * l * d
    last = 4 * d * d * l + 2 * d * d * 2 + 4 * l * d + 16 * d * d
    expected = 2 * 192 * 768 * d + 11 * block + last + 2 * d * 512
    found = flops.total(flops.encode(ClipConfig(), methods.zero_shot(), "vision", 1))
    assert found["total"] == expected


TWO_BLOCKS = dataclasses.replace(tiny.CONFIG, vision_layers=2)


def traced(method: methods.Method, heads: Heads, used: tuple[str, ...], sizes=TWO_BLOCKS) -> float:
    """Counts the operations of all products in the traced gradient of the objective."""
    model, batch = clip.build(sizes, method, heads=heads), tiny.batch(4, config=sizes)
    batch |= {"mlm_ids": batch["ids"], "mlm_labels": batch["ids"]} if "mlm" in used else {}
    variables = tiny.random_like(clip.declare(sizes, method, heads), seed=0)
    trainable, frozen = optim.split_model(variables, method)

    def loss(trainable):
        return objective.objective(model, dict.fromkeys(used, 1.0), 50.0, trainable, frozen, batch)[0]

    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(trainable).jaxpr
    return products_in(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0])


def products_in(jaxpr) -> float:
    found = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((left, _), _), shape = equation.params["dimension_numbers"], equation.invars[0].aval.shape
            found += 2.0 * np.prod(equation.outvars[0].aval.shape) * np.prod([shape[i] for i in left])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            found += products_in(inner) if hasattr(inner, "eqns") else 0.0
    return found


@pytest.mark.parametrize("name", ["dm_adapter", "parallel_adapter", "full_finetune", "bitfit", "layer_norm"])
def test_counts_match_the_traced_program(name):
    settings = tiny.DM_SETTINGS if name == "dm_adapter" else tiny.SETTINGS.get(name, {})
    if name == "parallel_adapter":
        settings = {"reduction": 4}
    method = methods.METHODS[name](**settings)
    used = ("sdm", "balance") if method.mixtures else ("sdm", "cmpm")
    least = flops.total(flops.train_step(TWO_BLOCKS, method, 4, used, all_experts=True))["total"]
    # For routing statistics a mixture's last block computes the attention of all tokens and of the one.
    assert traced(method, Heads(), used) == pytest.approx(least, rel=0.06 if method.mixtures else 0.02)


@pytest.mark.parametrize(
    "name", ["zero_shot", "parallel_adapter", "prompts", "full_finetune", "bitfit", "linear_probe"]
)
def test_counts_of_siglip_match_the_traced_program(name):
    """All patches pass the last block of the vision tower, and then the pooling head."""
    settings = {"reduction": 4} if name == "parallel_adapter" else tiny.SETTINGS.get(name, {})
    method = methods.METHODS[name](**settings)
    least = flops.total(flops.train_step(tiny_siglip.CONFIG, method, 4, ("sdm", "cmpm")))["total"]
    found = traced(method, Heads(), ("sdm", "cmpm"), tiny_siglip.CONFIG)
    assert found == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize("sizes", [TWO_BLOCKS, tiny_siglip.CONFIG], ids=["clip", "siglip"])
def test_late_interaction_passes_all_tokens_and_compares_all_pairs_of_them(sizes):
    method = methods.full_finetune()
    least = flops.total(flops.train_step(sizes, method, 4, ("sdm", "filip")))["total"]
    assert traced(method, Heads(), ("sdm", "filip"), sizes) == pytest.approx(least, rel=0.02)


def test_masked_words_include_the_positions_of_prompts():
    """Captions of 2 ids with 2 prompt tokens have 4 positions, of 4 ids only the context's 5."""
    heads, method = Heads(mlm_depth=1), methods.prompts(1)
    for length, places in ((2, 4), (4, 5), (None, 5)):
        products = flops.train_step(SIZES, method, 2, ("mlm",), heads, length)
        (words,) = [p.forward for p in products if p.name == "mlm words"]
        assert words == 2 * 2 * places * 6 * 11
