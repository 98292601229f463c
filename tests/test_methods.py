"""The methods side by side: what sits where, and that the ablations can be reached."""

import jax
import pytest
import tiny_clip as tiny

from tpr_jax.models import clip
from tpr_jax.models.methods import METHODS, Adapter, Moe, Slots, dm_adapter, parallel_adapter


def test_dm_adapter_is_the_published_one():
    method = dm_adapter()
    assert method.vision == Slots(Moe(num_experts=6, top_k=2, reduction=8, router="blend", scale=0.1))
    assert method.text == Slots(Moe(num_experts=6, top_k=2, reduction=8, router="blend", scale=4.0))
    assert method.trainable == ("moe",)


def test_ablations():
    method = dm_adapter(num_experts=10, top_k=6, reduction=4, router="input", scales=(1.0, 2.0))
    assert method.vision == Slots(Moe(10, 6, 4, "input", 1.0))
    assert method.text == Slots(Moe(10, 6, 4, "input", 2.0))
    method = parallel_adapter()
    assert (method.vision, method.text) == (Slots(Adapter(8, 0.1)), Slots(Adapter(8, 4.0)))
    assert method.trainable == ("adapter",)


def test_clip_alone():
    assert METHODS["zero_shot"]().trainable == ()
    assert METHODS["full_finetune"]().trainable == ("params",)
    assert METHODS["full_finetune"]().vision == METHODS["zero_shot"]().text == Slots()


@pytest.mark.parametrize("name", METHODS)
def test_names_and_trainable_collections_hold(name):
    """A method says its own name, and all its trainable collections exist in its model."""
    method = METHODS[name]()
    assert method.name == name
    shapes = jax.eval_shape(clip.build(tiny.CONFIG, method)["init"], jax.random.key(0))
    assert set(method.trainable) <= set(shapes)
    assert set(shapes) - {"params"} <= set(method.trainable)
