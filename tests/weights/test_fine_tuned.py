"""Extraction of CLIP's weights from larger models; `tests/import_checkpoint` converts whole ones."""

import numpy as np
import pytest

from tpr_jax.errors import UserError
from tpr_jax.weights.fine_tuned import check_method, read_fine_tuned, split_clip

W = np.zeros(2)


def test_takes_clips_names_and_counts_the_others_by_module():
    state = dict.fromkeys(
        (
            *(
                "base_model.visual.proj",
                "base_model.transformer.resblocks.0.ln_1.bias",
                "base_model.logit_scale",
            ),
            *("classifier.weight", "classifier.bias", "visul_emb_layer.fc.weight", "base_model.other.weight"),
            *("cross_attn.in_proj_weight", "logit_scale_2"),
        ),
        W,
    )
    taken, left_out = split_clip(state)
    assert set(taken) == {"visual.proj", "transformer.resblocks.0.ln_1.bias", "logit_scale"}
    assert left_out == {
        "classifier": 2, "visul_emb_layer": 1, "base_model.other": 1, "cross_attn": 1, "logit_scale_2": 1
    }  # fmt: skip


def test_reports_a_weight_that_is_there_twice():
    with pytest.raises(UserError, match=r"'visual.proj' is there twice, also as 'visual.proj'"):
        split_clip({"base_model.visual.proj": W, "visual.proj": W})


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("base_model.transformer.resblocks.0.feed_forward.alpha", "dm_adapter"),
        ("base_model.visual.transformer.resblocks.3.scale_1", "up_person"),
        ("transformer.resblocks.0.adapter_mlp.up.bias", "cskt"),
    ],
)
def test_names_the_method_that_a_file_belongs_to(name, method):
    with pytest.raises(UserError, match=f"w: weight .* belongs to {method}: use --method {method}"):
        read_fine_tuned({name: W}, where="w")


def test_a_file_without_a_clip():
    with pytest.raises(UserError, match=r"w: weight 'visual.conv1.weight' is missing"):
        read_fine_tuned({"head.weight": W}, where="w")


def test_a_shared_name_does_not_decide():
    """CSKT's adapters have a LayerNorm with the name of DM-Adapter's."""
    block = "base_model.transformer.resblocks.0."
    names = [block + "ln_3.weight", block + "ln_3.bias", block + "adapter_mlp.up.bias"]
    check_method(names, "cskt", "w")
    with pytest.raises(UserError, match=r"'transformer.resblocks.0.adapter_mlp.up.bias' belongs to cskt"):
        check_method(names, "dm_adapter", "w")
    check_method(["base_model.visual.proj", "classifier.weight"], "irra", "w")
