"""OpenCLIP's config: what it says is followed, and what the towers cannot compute is an error."""

import pytest

from tests.clip_folder import open_clip_config
from tpr_jax.errors import UserError
from tpr_jax.models.config import IMAGE_MEAN
from tpr_jax.weights.open_clip_config import read_config, read_image_settings

# The published configs of OpenCLIP's vision transformers, as far as they differ from its defaults:
# name: (embed_dim, vision_cfg, text_cfg, quick_gelu) -> heads and perceptron widths of both towers.
PUBLISHED = {
    "ViT-B-32": ((512, {"patch_size": 32}, {}, False), (12, 3072, 8, 2048)),
    "ViT-B-16-quickgelu": ((512, {"patch_size": 16}, {}, True), (12, 3072, 8, 2048)),
    "ViT-L-14": (
        (768, {"layers": 24, "width": 1024, "patch_size": 14}, {"width": 768, "heads": 12}, False),
        (16, 4096, 12, 3072),
    ),
    "ViT-H-14": (
        (
            1024,
            {"layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
            {"width": 1024, "heads": 16, "layers": 24},
            False,
        ),
        (16, 5120, 16, 4096),
    ),
    "ViT-g-14": (
        (
            1024,
            {"layers": 40, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14},
            {"width": 1024, "heads": 16, "layers": 24},
            False,
        ),
        (16, 6144, 16, 4096),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_published_configs(name):
    (embed, vision, text, quick_gelu), wanted = PUBLISHED[name]
    config = read_config(
        {"model_cfg": {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick_gelu}}
    )
    assert (config.vision_heads, config.vision_mlp, config.text_heads, config.text_mlp) == wanted
    assert config.act == ("quick_gelu" if quick_gelu else "gelu")
    assert (config.image_size, config.context_length, config.vocab_size) == ((224, 224), 77, 49408)
    assert config.embed_dim == embed and config.eot_id is None and config.layer_norm_eps == 1e-5


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({"quick_gelu": True}, "act", "quick_gelu"),
        ({"vision_cfg__head_width": 64}, "vision_heads", 2),
        ({"vision_cfg__mlp_ratio": 4.3637}, "vision_mlp", 558),
        ({"vision_cfg__image_size": [32, 16]}, "image_size", (32, 16)),
        ({"vision_cfg__patch_size": [4, 4]}, "patch_size", 4),
        ({"text_cfg__heads": 6}, "text_heads", 6),
        ({"text_cfg__mlp_ratio": 2}, "text_mlp", 192),
        ({"text_cfg__eos_id": 399}, "eot_id", None),
        ({"text_cfg__eos_id": 399, "text_cfg__pool_type": "eos"}, "eot_id", 399),
        (
            {"vision_cfg__norm_kwargs": {"eps": 1e-6}, "text_cfg__norm_kwargs": {"eps": 1e-6}},
            "layer_norm_eps",
            1e-6,
        ),
    ],
)
def test_follows_a_setting(changes, attribute, value):
    assert getattr(read_config(open_clip_config(**changes)), attribute) == value
    assert getattr(read_config(open_clip_config()), attribute) != value or value is None


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_cfg__patch_dropout": 0.5},
        {"vision_cfg__output_tokens": True, "text_cfg__output_tokens": True},
        {"vision_cfg__final_ln_after_pool": True, "text_cfg__final_ln_after_pool": True},
        {"vision_cfg__attentional_pool": False, "vision_cfg__attn_pooler_heads": 8},
        {"vision_cfg__ls_init_value": 1e-4},
        {"vision_cfg__timm_drop": 0.0, "vision_cfg__timm_model_pretrained": False},
        {"vision_cfg__block_type": "default", "vision_cfg__qk_norm": False},
        {"text_cfg__pad_id": 3, "text_cfg__hf_tokenizer_name": "someone/clip"},
        {"custom_text": True, "init_logit_bias": -10, "nonscalar_logit_scale": True},
        {"vision_cfg__act_kwargs": {}, "text_cfg__norm_kwargs": {}},
    ],
)
def test_accepts_what_does_not_change_the_features(changes):
    assert read_config(open_clip_config(**changes)) == read_config(open_clip_config())


SIGLIP = {"vision_cfg__timm_model_name": "vit_base_patch16_siglip_224"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (SIGLIP, "is a SigLIP in OpenCLIP's form.*use Hugging Face's form, such as google/siglip"),
        ({"vision_cfg__timm_model_name": "eva02_base_patch16_clip_224"}, "is EVA-CLIP"),
        ({"vision_cfg__timm_model_name": "vit_pe_core_base_patch16_224"}, r"Perception Encoder \(PE-Core\)"),
        ({"vision_cfg__timm_model_name": "vit_base_mci_224"}, "is MobileCLIP"),
        ({"vision_cfg__timm_model_name": "fastvit_mci2"}, "is MobileCLIP"),
        ({"vision_cfg__timm_model_name": "convnext_base"}, "a vision tower of the package timm"),
        ({"text_cfg__hf_model_name": "roberta-base"}, "'roberta-base': is a text tower of Hugging Face's"),
        ({"multimodal_cfg": {"width": 512}}, "is a CoCa"),
        ({"vision_cfg__layers": [3, 4, 6, 3]}, r"layers=\[3, 4, 6, 3\]: is a ResNet"),
        ({"vision_cfg__attentional_pool": True}, "attentional_pool=True: is attentional pooling"),
        ({"vision_cfg__attentional_pool": "parallel"}, "attentional_pool='parallel'"),
        ({"vision_cfg__no_ln_pre": True}, "no_ln_pre=True"),
        ({"vision_cfg__pool_type": "avg"}, "vision_cfg.pool_type='avg': is pooling over the patches"),
        ({"vision_cfg__patch_size": [8, 4]}, "patches that are not square"),
        ({"vision_cfg__qk_norm": True}, "qk_norm=True: is blocks with qk_norm"),
        ({"vision_cfg__act_kwargs": {"approximate": "tanh"}}, "act_kwargs"),
        ({"text_cfg__pool_type": "last"}, "text_cfg.pool_type='last'"),
        ({"text_cfg__no_causal_mask": True}, "without a causal mask"),
        ({"text_cfg__embed_cls": True}, "class token"),
        ({"text_cfg__proj_bias": True}, "projection with a bias"),
        ({"text_cfg__proj_type": "none"}, "proj_type='none'"),
        ({"text_cfg__tokenizer_kwargs": {"clean": "canonicalize"}}, "tokenizer with settings"),
        ({"text_cfg__norm_kwargs": {"eps": 1e-6}}, "norm_kwargs differ between the towers"),
        ({"vision_cfg__norm_kwargs": {"elementwise_affine": False}}, "another normalization"),
    ],
)
def test_rejects_what_the_towers_cannot_compute(changes, message):
    with pytest.raises(UserError, match=f"^f: .*{message}") as error:
        read_config(open_clip_config(**changes), "f")
    assert "\n" not in str(error.value)
    assert changes is SIGLIP or "use a vision transformer of LAION, DataComp, DFN or MetaCLIP" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg__rotary": True}, "vision_cfg.rotary=True is unknown to this version and may change"),
        ({"text_cfg__rotary": 3}, "text_cfg.rotary=3 is unknown"),
        ({"rotary": 3}, "model_cfg.rotary=3 is unknown"),
        ({"embed_dim": "512"}, "model_cfg.embed_dim='512' is missing or invalid"),
        ({"embed_dim": None}, "model_cfg.embed_dim=None is missing or invalid"),
        ({"vision_cfg": [1]}, r"model_cfg.vision_cfg=\[1\] is missing or invalid"),
        ({"vision_cfg__width": 0}, "vision_cfg.width=0"),
        ({"vision_cfg__mlp_ratio": float("nan")}, "mlp_ratio=nan"),
        ({"vision_cfg__image_size": [1, 2, 3]}, "image_size"),
        ({"quick_gelu": "yes"}, "quick_gelu='yes'"),
        ({"text_cfg__heads": 5}, "heads=5 do not divide the text tower's width of 96"),
        ({"vision_cfg__head_width": 256}, "heads=0 do not divide"),
        ({"text_cfg__eos_id": 400, "text_cfg__pool_type": "eos"}, "eos_id 400 is outside the vocabulary"),
    ],
)
def test_rejects_invalid_and_unknown_values(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(open_clip_config(**changes))
    with pytest.raises(UserError, match="has no model_cfg"):
        read_config({"vision_cfg": {}})


def test_image_settings():
    found = read_image_settings(
        open_clip_config(preprocess_cfg__mean=[0.1, 0.2, 0.3], preprocess_cfg__std=0.5)
    )
    assert (found.mean, found.std, found.image_size) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), None)
    assert "interpolation=bicubic, resize_mode=shortest: not followed" in found.ignored
    bilinear = {"interpolation": "bilinear", "resize_mode": "squash", "mode": "RGB", "size": 32}
    assert read_image_settings({"preprocess_cfg": bilinear}) == read_image_settings({})._replace(ignored="")
    assert read_image_settings({}).mean == IMAGE_MEAN


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [0.5]}, "preprocess_cfg: mean is"),
        ({"std": [0.5, 0, 1]}, "std is .* above 0"),
        ({"mode": "L"}, "mode is 'L'"),
        ({"gamma": 2}, "preprocess_cfg.gamma is unknown"),
        ([1], "preprocess_cfg is not a set of keys"),
    ],
)
def test_rejects_image_settings(settings, message):
    with pytest.raises(UserError, match=message):
        read_image_settings({"preprocess_cfg": settings})
