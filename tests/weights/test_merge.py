"""Folding parts into CLIP: the same features with fewer leaves."""

import json

import jax
import numpy as np
import pytest

import tpr_jax
from tests.saved_models import assert_close, features, trained, write_backbone
from tests.tiny_clip import CONFIG, quick_compilation, random_like  # noqa: F401
from tpr_jax.models import methods
from tpr_jax.models.clip import declare
from tpr_jax.models.methods import Method, zero_shot
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Prefix
from tpr_jax.utils.trees import flatten
from tpr_jax.weights.merge import merge

EVERYWHERE = ("q", "k", "v", "out", "fc", "proj")
WHOLE = {
    "lora": methods.lora(EVERYWHERE, 3, "learned"),
    "lora_constant": methods.lora(("k", "out"), 2, 0.7),
    "dora": methods.lora(EVERYWHERE, 3, "learned", dora=True),
    "lora_of_some_blocks": Method("x", text=(Lora(("v", "fc"), 2, layers=(1, None)),)),
    "bitfit": methods.bitfit(),
    "layer_norm": methods.layer_norm(),
    "linear_probe": methods.linear_probe(),
    "full_finetune": methods.full_finetune(),
}
PARTLY = {
    "up_person": methods.up_person(rank=3, prefix=2, reduction=4),
    "prefix": methods.prefix(2),
    "mixed": Method(
        "mixture",
        (Lora(("k",), 2, dora=True), LoraMoe(("v",), 2, num_experts=3), Prefix(2, None)),
        (Adapter("after_attn", 4, "learned"), Prefix(3, 10.0, scaled=False), Lora(("fc",), 2, 0.5)),
        tuned=("visual/proj",),
    ),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "clip")


@pytest.mark.parametrize("name", WHOLE)
def test_where_everything_folds_the_model_is_a_plain_clip(backbone, tmp_path, name):
    model = trained(backbone, WHOLE[name])
    merged = model.merge()
    assert merged.method == zero_shot() and list(merged.variables) == ["params"]
    assert merged.num_params()["trainable"] == 0
    assert_close(merged, model)
    plain = tpr_jax.from_pretrained(backbone, image_size=model.config.image_size)
    difference = [np.abs(a - b).max() for a, b in zip(features(plain), features(model), strict=True)]
    assert max(difference) > 1e-2  # else there was nothing to fold
    merged.save_pretrained(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"] == "clip"
    assert_close(tpr_jax.from_pretrained(tmp_path / "merged"), model)


@pytest.mark.parametrize("name", PARTLY)
def test_what_depends_on_its_input_stays(backbone, tmp_path, name):
    model = trained(backbone, PARTLY[name])
    merged = model.merge()
    for part in (*merged.method.vision, *merged.method.text):
        assert not isinstance(part, Lora)
        assert not isinstance(part, Prefix) or (part.gate, part.scaled) == (None, False)
    assert merged.method.name == model.method.name and merged.method.tuned == ()
    assert_close(merged, model)
    merged.save_pretrained(tmp_path / "merged")
    again = tpr_jax.from_pretrained(tmp_path / "merged")
    for same in (again, merged.merge()):
        assert same.method == merged.method
        jax.tree.map(np.testing.assert_array_equal, dict(same.variables), dict(merged.variables))
    # Only where CLIP's own weights changed does a second CLIP have to be written.
    assert (tmp_path / "merged" / "backbone").exists() == (name != "prefix")


def test_values_by_hand():
    """One block: W_k + c B A in the middle third of the columns, c_v g V for the prefix."""
    method = methods.up_person(rank=3, prefix=2)
    variables = random_like(declare(CONFIG, method), 0)
    before = {path: leaf.copy() for path, leaf in flatten(variables).items()}
    _, found = merge(method, variables)
    block = "visual/block_0/attn/"
    a, b, scale = (before[f"lora/{block}qkv/lora_k/{leaf}"].astype(float) for leaf in ("a", "b", "scale"))
    wanted = before[f"params/{block}qkv/kernel"].astype(float)
    wanted[:, 16:32] += scale * np.einsum("dr,rn->dn", a, b)
    kernel = found["params"]["visual"]["block_0"]["attn"]["qkv"]["kernel"]
    np.testing.assert_allclose(kernel[:, :32], wanted[:, :32], rtol=1e-5, atol=1e-6)
    assert np.abs(kernel[:, 32:] - wanted[:, 32:]).max() > 1e-2  # v has an update of its own
    prefix = {leaf: before[f"prefix/{block}prefix/{leaf}"] for leaf in ("key", "value", "gate")}
    scales = [before[f"prefix/{block}prefix/{leaf}"] for leaf in ("key_scale", "value_scale")]
    folded = found["prefix"]["visual"]["block_0"]["attn"]["prefix"]
    assert sorted(folded) == ["key", "value"]
    np.testing.assert_allclose(folded["key"], scales[0] * prefix["key"], rtol=1e-6)
    np.testing.assert_allclose(folded["value"], scales[1] * prefix["gate"] * prefix["value"], rtol=1e-6)
    # The input is unchanged.
    for path, leaf in flatten(variables).items():
        np.testing.assert_array_equal(leaf, before[path])


def test_doras_columns_have_their_magnitudes_norms():
    """By its definition: each column of the merged kernel is m times as long as W's."""
    method = methods.lora(("out",), 3, dora=True)
    variables = random_like(declare(CONFIG, method), 0)
    _, found = merge(method, variables)
    kernels = [v["params"]["text"]["block_1"]["attn"]["out"]["kernel"] for v in (found, variables)]
    magnitude = variables["lora"]["text"]["block_1"]["attn"]["out"]["lora_out"]["magnitude"]
    lengths = [np.linalg.norm(kernel, axis=0) for kernel in kernels]
    np.testing.assert_allclose(lengths[0], np.abs(magnitude) * lengths[1], rtol=1e-5)


def test_heads_are_dropped(backbone):
    _, found = merge(methods.irra(), {"params": {"x": np.ones(2)}, "head": {"y": np.ones(3)}})
    assert list(found) == ["params"]
