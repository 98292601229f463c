"""Weights with the names that training code gives them."""

import jax
import numpy as np
import pytest

from tests.clip_folder import FOLDER, copy_golden, read_golden
from tpr_jax.errors import UserError
from tpr_jax.weights import reference
from tpr_jax.weights.clip import from_hugging_face, load_clip, to_openai
from tpr_jax.weights.files import read_state, write_state
from tpr_jax.weights.state_dict import scalar, unwrap_names


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("module.visual.proj", "visual.proj"),
        ("model.visual.proj", "visual.proj"),
        ("_orig_mod.visual.proj", "visual.proj"),
        ("module._orig_mod.model.visual.proj", "visual.proj"),
        ("_orig_mod.module.visual.proj", "visual.proj"),
        ("visual._orig_mod.proj", "visual.proj"),
        ("clip.visual.proj", "visual.proj"),
        ("module.clip_model.visual.proj", "visual.proj"),
        ("vision_model._fsdp_wrapped_module.encoder.layers.0.w", "vision_model.encoder.layers.0.w"),
        ("visual.transformer._checkpoint_wrapped_module.w", "visual.transformer.w"),
        ("module.base_model.visual.proj", "base_model.visual.proj"),
        ("vision_model.post_layernorm.bias", "vision_model.post_layernorm.bias"),
        ("model", "model"),
        ("logit_scale", "logit_scale"),
        ("visual.model.w", "visual.model.w"),
    ],
)
def test_removes_wrappers(name, short):
    assert list(unwrap_names({name: 1})) == [short]


def test_rejects_two_models_in_one_file():
    with pytest.raises(UserError, match=r"f: weights 'module.w' and 'model.w' are both 'w'"):
        unwrap_names({"module.w": 1, "model.w": 2}, "f")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("form", ["hugging_face", "openai", "reference"])
def test_every_reader_removes_wrappers(tmp_path, prefix, form):
    state, config_json = read_golden()
    config, params = from_hugging_face(state, config_json)
    if form == "hugging_face":
        copy_golden(tmp_path)
        write_state(tmp_path / "model.safetensors", {prefix + n: a for n, a in state.items()})
        found = load_clip(tmp_path)[1]
    else:
        theirs = {prefix + name: array for name, array in to_openai(params, config).items()}
        if form == "openai":
            write_state(tmp_path / "w.safetensors", theirs)
            found = load_clip(tmp_path / "w.safetensors", act="quick_gelu", heads=(2, 1))[1]
        else:
            found = reference.read(theirs, method="irra")[3]["params"]
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_temperature_of_any_shape(tmp_path, shape):
    state, config_json = read_golden()
    state = dict(state) | {"logit_scale": np.full(shape, 3.5, np.float32)}
    config, params = from_hugging_face(state, config_json)
    assert config.logit_scale == 3.5
    theirs = to_openai(params, config) | {"logit_scale": np.full(shape, 2.5, np.float16)}
    write_state(tmp_path / "w.safetensors", theirs)
    assert load_clip(tmp_path / "w.safetensors", act="gelu", heads=(2, 1))[0].logit_scale == 2.5
    reference.read(theirs, method="irra")


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.zeros(2), r"'logit_scale' has shape \[2\], expected one number"), (np.nan, "is nan")],
)
def test_rejects_a_temperature_that_is_not_a_number(value, message):
    with pytest.raises(UserError, match=f"f: weight {message}" if "shape" in message else message):
        scalar({"logit_scale": value}, "logit_scale", 1.0, "f")
    assert scalar({}, "logit_scale", 1.5) == 1.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_reports_weights_that_are_not_finite(tmp_path, bad):
    copy_golden(tmp_path)
    state = dict(read_state(FOLDER / "model.safetensors"))
    state["visual_projection.weight"] = np.where(np.eye(48, 128), bad, 0).astype(np.float32)
    write_state(tmp_path / "model.safetensors", state)
    with pytest.raises(UserError, match=r"weight 'visual_projection.weight' holds NaN or infinity"):
        load_clip(tmp_path)
