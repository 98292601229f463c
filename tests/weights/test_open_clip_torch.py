"""OpenCLIP's models of many sizes: our features against PyTorch's.

The oracle is a plain PyTorch module with OpenCLIP's names; where the package open_clip is installed, its own
model is a second one.
"""

import json
from collections import OrderedDict

import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import copy_open_clip
from tpr_jax.weights.clip import load_clip
from tpr_jax.weights.files import read_state, write_state

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def build_plain(torch, model: dict):
    """Builds the model of a `model_cfg`; returns the module and functions of images and of ids."""
    nn, embed = torch.nn, model["embed_dim"]
    vision, text = model["vision_cfg"], model["text_cfg"]

    class QuickGelu(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    class Block(nn.Module):
        def __init__(self, width, heads, ratio, scale):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
            hidden = int(width * ratio)
            act = QuickGelu() if model.get("quick_gelu") else nn.GELU()
            self.mlp = nn.Sequential(
                OrderedDict(c_fc=nn.Linear(width, hidden), act=act, c_proj=nn.Linear(hidden, width))
            )
            if scale:
                self.ls_1, self.ls_2 = nn.Module(), nn.Module()
                for module in (self.ls_1, self.ls_2):
                    module.gamma = nn.Parameter(torch.ones(width))

        def forward(self, x, mask=None):
            y = self.ln_1(x)
            y = self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + (y * self.ls_1.gamma if hasattr(self, "ls_1") else y)
            y = self.mlp(self.ln_2(x))
            return x + (y * self.ls_2.gamma if hasattr(self, "ls_2") else y)

    def blocks(tower, heads):
        module = nn.Module()
        ratio, scale = tower.get("mlp_ratio", 4.0), tower.get("ls_init_value")
        module.resblocks = nn.ModuleList(
            Block(tower["width"], heads, ratio, scale) for _ in range(tower["layers"])
        )
        return module

    root, root.visual = nn.Module(), nn.Module()
    size, patch, width = vision["image_size"], vision["patch_size"], vision["width"]
    height, wide = size if isinstance(size, list) else (size, size)
    v = root.visual
    v.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
    v.class_embedding = nn.Parameter(torch.zeros(width))
    v.positional_embedding = nn.Parameter(torch.zeros(1 + (height // patch) * (wide // patch), width))
    v.ln_pre, v.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
    v.transformer = blocks(vision, width // vision["head_width"])
    v.proj = nn.Parameter(torch.zeros(width, embed))
    root.transformer = blocks(text, text["heads"])
    root.token_embedding = nn.Embedding(text["vocab_size"], text["width"])
    root.positional_embedding = nn.Parameter(torch.zeros(text["context_length"], text["width"]))
    root.ln_final = nn.LayerNorm(text["width"])
    root.text_projection = nn.Parameter(torch.zeros(text["width"], embed))
    root.logit_scale = nn.Parameter(torch.zeros([]))

    def encode_image(images):
        x = v.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1) + v.positional_embedding
        x = v.ln_pre(x)
        for block in v.transformer.resblocks:
            x = block(x)
        return v.ln_post(x[:, 0]) @ v.proj

    def encode_text(ids):
        x = root.token_embedding(ids) + root.positional_embedding[: ids.shape[1]]
        mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        for block in root.transformer.resblocks:
            x = block(x, mask)
        is_end = ids == text["eos_id"] if text.get("pool_type") == "eos" else ids
        at = is_end.int().argmax(-1)
        return root.ln_final(x)[torch.arange(len(ids)), at] @ root.text_projection

    return root, encode_image, encode_text


def build_package(torch, model: dict):
    """Builds the same with the package open_clip."""
    pytest.importorskip("open_clip")
    from open_clip.model import CLIP, CustomTextCLIP

    settings = {key: value for key, value in model.items() if key != "custom_text"}
    built = (CustomTextCLIP if model.get("custom_text") else CLIP)(**settings).eval()
    return built, built.encode_image, built.encode_text


def random_config(seed: int) -> dict:
    """Returns a small `model_cfg` with random sizes and settings."""
    rng = np.random.default_rng(seed)
    head_width, heads, text_heads = (int(n) for n in rng.integers(2, 5, 3) * (4, 1, 1))
    patch, text_width = int(rng.integers(3, 9)), text_heads * int(rng.integers(5, 12))
    vision = {
        "image_size": [int(n) * patch + int(rng.integers(0, patch)) for n in rng.integers(1, 5, 2)],
        "patch_size": patch,
        "width": head_width * heads,
        "head_width": head_width,
        "layers": int(rng.integers(1, 4)),
        "mlp_ratio": float(rng.uniform(1, 5)),
    }
    text = {
        "context_length": int(rng.integers(6, 20)),
        "vocab_size": 50,
        "width": text_width,
        "heads": text_heads,
        "layers": int(rng.integers(1, 4)),
        "mlp_ratio": float(rng.uniform(1, 5)),
    }
    if seed % 2:
        text |= {"pool_type": "eos", "eos_id": 2}
    if seed % 3 == 1:
        vision, text = vision | {"ls_init_value": 0.1}, text | {"ls_init_value": 0.1}
    return {
        "embed_dim": int(rng.integers(5, 30)),
        "vision_cfg": vision,
        "text_cfg": text,
        "quick_gelu": seed % 4 > 1,
        "custom_text": seed % 5 == 2,
    }


def of_size(image_size, width, head_width, mlp_ratio, embed, text_width, text_heads) -> dict:
    """Returns a published shape with patches of 14, but one block in each tower and few words."""
    return {
        "embed_dim": embed,
        "vision_cfg": {
            "image_size": image_size, "patch_size": 14, "width": width, "head_width": head_width,
            "layers": 1, "mlp_ratio": mlp_ratio,
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 300, "width": text_width, "heads": text_heads, "layers": 1,
        },
    }  # fmt: skip


CONFIGS = {f"random_{seed}": random_config(seed) for seed in range(5)}
CONFIGS |= {
    "ViT-L-14-336": of_size(336, 1024, 64, 4.0, 768, 768, 12),
    "ViT-H-14": of_size(224, 1280, 80, 4.0, 1024, 1024, 16),
    "ViT-g-14": of_size(224, 1408, 88, 4.3637, 1024, 1024, 16),
}


@pytest.mark.parametrize("build", [build_plain, build_package])
@pytest.mark.parametrize("name", CONFIGS)
def test_features_match(torch, tmp_path, name, build):
    model = CONFIGS[name]
    torch.manual_seed(0)
    module, encode_image, encode_text = build(torch, model)
    for key, parameter in module.named_parameters():
        center = 1.0 if ("ln_" in key and key.endswith("weight")) or key.endswith("gamma") else 0.0
        std = 0.3 if name.startswith("random") else 0.04
        torch.nn.init.normal_(parameter, mean=center, std=std)
    state = {key: tensor.numpy() for key, tensor in module.state_dict().items() if "attn_mask" not in key}
    write_state(tmp_path / "open_clip_model.safetensors", state)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    found = tpr_jax.from_pretrained(tmp_path)
    height, width = found.config.image_size
    rng, text = np.random.default_rng(1), model["text_cfg"]
    images = rng.normal(size=(2, 3, height, width)).astype(np.float32)
    ids = rng.integers(3, text["vocab_size"] - 1, (3, text["context_length"]))
    ids[:, 4] = 2 if text.get("pool_type") == "eos" else text["vocab_size"] - 1
    with torch.no_grad():
        expected = encode_image(torch.tensor(images)), encode_text(torch.tensor(ids))
    features = found.features_from_arrays(images.transpose(0, 2, 3, 1), ids)
    for ours, theirs in zip(features, expected, strict=True):
        assert np.linalg.norm(ours - theirs.numpy()) / np.linalg.norm(theirs.numpy()) < 1e-5


def test_reads_the_pickle(torch, tmp_path):
    folder = copy_open_clip(tmp_path)
    state = read_state(folder / "open_clip_model.safetensors")
    wanted = load_clip(folder)
    (folder / "open_clip_model.safetensors").unlink()
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    config, params = load_clip(folder)
    assert config == wanted[0]
    np.testing.assert_array_equal(params["text"]["proj"], wanted[1]["text"]["proj"])
