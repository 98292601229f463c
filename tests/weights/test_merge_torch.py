"""transformers loads a fully merged model as a CLIP with the same features."""

import dataclasses

import numpy as np
import pytest

from tests.saved_models import SQUARE, trained, write_backbone
from tests.tiny_clip import batch, quick_compilation  # noqa: F401
from tpr_jax.models import methods

pytestmark = pytest.mark.torch
TARGETS = ("q", "k", "v", "out", "fc", "proj")


@pytest.mark.parametrize(
    "method",
    [
        methods.lora(TARGETS, 3, "learned"),
        methods.lora(TARGETS, 3, dora=True),
        methods.bitfit(),
        methods.layer_norm(),
        methods.linear_probe(),
        methods.full_finetune(),
    ],
    ids=["lora", "dora", "bitfit", "layer_norm", "linear_probe", "full_finetune"],
)
def test_transformers_gives_the_same_features(tmp_path, method):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    # transformers needs a square image size.
    config = dataclasses.replace(SQUARE, eot_id=SQUARE.vocab_size - 1)
    folder = write_backbone(tmp_path / "clip", config=config)
    model = trained(folder, method, SQUARE.image_size)
    model.merge().save_pretrained(tmp_path / "merged")
    theirs, info = transformers.CLIPModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    pixels = np.random.default_rng(2).normal(size=(3, *SQUARE.image_size, 3)).astype(np.float32)
    ids = batch(3)["ids"]
    with torch.no_grad():
        out = theirs.eval()(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)), input_ids=torch.tensor(ids).long()
        )
    wanted = out.image_embeds.numpy(), out.text_embeds.numpy()
    for found, expected in zip(model.features_from_arrays(pixels, ids), wanted, strict=True):
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
