"""Errors in an authors' checkpoint or in the settings for it are reported."""

import re

import numpy as np
import pytest

from tests.reference_bundles import BLOCK, EXPERT, read, stored
from tpr_jax.errors import UserError
from tpr_jax.weights import reference


@pytest.fixture(scope="module")
def bundle():
    """The bundle of DM-Adapter."""
    return stored()


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
def test_reports_a_missing_weight(bundle, name):
    assert name in bundle[0]
    with pytest.raises(UserError, match=name.removeprefix("base_model.")):
        read(bundle, {name: None})


def test_reports_a_block_without_its_mixture(bundle):
    gone = [
        k for k in bundle[0] if k.startswith(BLOCK) and ("feed_forward" in k or "ln_3" in k or "task" in k)
    ]
    assert len(gone) > 10
    with pytest.raises(UserError, match=r"visual\.transformer\.resblocks\.1\.(feed_forward|ln_3)"):
        read(bundle, dict.fromkeys(gone))


def test_rejects_a_clip_without_dm_adapter(bundle):
    state, image_size, _ = bundle
    clip_alone, _ = reference.split(state, "dm_adapter")
    with pytest.raises(UserError, match=r"lacks the weight.*input_gate"):
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
def test_reports_a_surplus_weight(bundle, name):
    with pytest.raises(UserError, match=name.removeprefix("base_model.")):
        read(bundle, {name: np.zeros(4, np.float32)})


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("up_person", "LORA_learner.lora_image.1.lora_B.1"),
        ("up_person", "LORA_learner.lora_image.0.lora_A.0"),
        ("up_person", "vit_prefix_learner.vit_prefix.0.key.tokens"),
        ("up_person", "text_prefix_learner.text_prefix.1.val.scaler.scale"),
        ("up_person", BLOCK + "scale_2"),
        ("up_person", BLOCK + "adapter_ln_msa.up.weight"),
        ("cskt", "prompt_learner.ctx"),
        ("cskt", "prompt_learner.tmap.weight"),
        ("cskt", BLOCK + "adapter_mlp.up.bias"),
        ("irra", "classifier.weight"),
        ("irra", "cross_modal_transformer.resblocks.0.ln_1.bias"),
        ("irra", "mlm_head.fc.weight"),
    ],
)
def test_reports_a_missing_weight_of_each_method(method, name):
    assert name in stored(method)[0]
    with pytest.raises(UserError, match=re.escape(name)):
        read(stored(method), {name: None}, method)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("up_person", "LORA_learner.lora_image.7.lora_B.1"),
        ("up_person", BLOCK + "task_param"),
        ("cskt", "prompt_learner.other"),
        ("cskt", "classifier.weight"),
        ("irra", "mlm_head.other.weight"),
        ("irra", "cross_modal_transformer.resblocks.5.ln_1.weight"),
    ],
)
def test_reports_a_surplus_weight_of_each_method(method, name):
    with pytest.raises(UserError, match=re.escape(name.removeprefix("base_model."))):
        read(stored(method), {name: np.zeros(4, np.float32)}, method)


@pytest.mark.parametrize("name", [EXPERT + "up.bias", BLOCK + "task_param"])
def test_reports_a_misshapen_weight(bundle, name):
    wrong = np.zeros([n + 1 for n in bundle[0][name].shape], np.float32)
    with pytest.raises(UserError, match=name.removeprefix("base_model.") + "' has shape .*expected"):
        read(bundle, {name: wrong})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": 99}, "num_experts=99"),
        ({"reduction": 3}, "reduction=3 was requested, but the weights have reduction=8"),
        ({"top_k": 99}, "top_k=99"),
        ({"router": "blnd"}, "blend"),
        ({"rank": 32}, "'rank'.*top_k"),
    ],
)
def test_reports_settings_that_do_not_fit(bundle, settings, message):
    with pytest.raises(UserError, match=message):
        read(bundle, **settings)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("up_person", {"rank": 3}, "rank=3 was requested, but the weights have rank=4"),
        ("up_person", {"prefix": 99}, "prefix=99 was requested, but the weights have prefix="),
        ("up_person", {"vanilla": True}, "vanilla=True was requested"),
        ("up_person", {"version": "new"}, "version='new' is unknown"),
        ("up_person", {"depth_lora": 3}, "depth_lora=3 was requested"),
        ("cskt", {"prompts": 9}, "prompts=9 was requested"),
        ("cskt", {"depth": 5}, "depth=5 was requested, but the weights have depth=2"),
        ("cskt", {"top_k": 1}, "'top_k' is unknown: choose from: prompts"),
        ("irra", {"rank": 1}, "'rank' is unknown: choose from: none"),
    ],
)
def test_reports_settings_of_each_method_that_do_not_fit(method, settings, message):
    with pytest.raises(UserError, match=message):
        read(stored(method), None, method, **settings)


def test_unknown_method(bundle):
    with pytest.raises(UserError, match=r"'dm_adaptor'.*dm_adapter"):
        reference.read(bundle[0], method="dm_adaptor")
