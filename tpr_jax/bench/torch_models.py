"""CLIP with DM-Adapter, UP-Person or CSKT in plain PyTorch, which `bench --torch` compares train steps with.

It is written as a user of PyTorch would write it: eager modules, fused attention, frozen weights without
gradients, Adam with parameter groups. CLIP's modules have the names of OpenAI's code. Only `torch_cases.py`
imports this module, because PyTorch is optional.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tpr_jax.bench.torch_parts import (
    CrossPrompts,
    Mixture,
    insert,
    make_part,
    prefix_mask,
    random_parameter,
)
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import Part, slots_of_block

TRAINABLE = ("beside", "lora", "prefix", "prompts")  # parameters with one of these words in their names train


class Attention(nn.Module):
    """Multi-head self-attention with the parts that a method adds to it."""

    def __init__(self, width: int, heads: int, slots: Mapping[str, Part]):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = random_parameter(3 * width, width)
        self.in_proj_bias = random_parameter(3 * width)
        self.out_proj = nn.Linear(width, width)
        self.lora = make_part(slots.get("lora_k"), width)
        self.prefix = make_part(slots.get("prefix"), width)

    def forward(self, x: Float[Tensor, "b l d"], causal: bool) -> Float[Tensor, "b l d"]:
        """Attends from each token to all, or with `causal` to those before it and itself."""
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        if self.lora:
            k_update, v_update = self.lora(x)
            k, v = k + k_update, v + v_update
        mask = None
        if self.prefix:
            k, v = self.prefix(k, v)
            mask = prefix_mask(q.shape[1], k.shape[1], x.device) if causal else None
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal and mask is None)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """CLIP's MLP with its approximation of GELU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Applies both layers."""
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """CLIP's pre-LN block with the parts that a method adds to it."""

    def __init__(self, sizes: tuple[int, int, int], slots: Mapping[str, Part]):
        super().__init__()
        width, heads, hidden = sizes
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads, slots), Mlp(width, hidden)
        for slot in ("beside_ln_1", "beside_ln_2", "beside_mlp"):
            setattr(self, slot, make_part(slots.get(slot), width))

    def forward(self, x: Float[Tensor, "b l d"], causal: bool) -> Float[Tensor, "b l d"]:
        """Applies attention and MLP with what is beside them."""
        u = self.ln_1(x)
        x = x + self.attn(u + self.beside_ln_1(x) if self.beside_ln_1 else u, causal)
        u = self.ln_2(x)
        y = x + self.mlp(u + self.beside_ln_2(x) if self.beside_ln_2 else u)
        return y + self.beside_mlp(x) if self.beside_mlp else y


class Transformer(nn.Module):
    """The blocks of a tower of these sizes: width, heads, hidden width of the MLP."""

    def __init__(self, sizes: tuple[int, int, int], layers: int, parts: tuple[Part, ...]):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(sizes, slots_of_block(parts, i, layers)) for i in range(layers))

    def forward(
        self, x: Float[Tensor, "b l d"], causal: bool, prompts: list[Float[Tensor, "n d"]], start: int
    ) -> Float[Tensor, "b l d"]:
        """Applies the blocks; each but the first puts its prompts, if any, at the position `start`."""
        for i, block in enumerate(self.resblocks):
            if 0 < i < len(prompts):
                x = insert(x, prompts[i], start, replaced=len(prompts[i]))
            x = block(x, causal)
        return x


class VisionTower(nn.Module):
    """The vision transformer."""

    def __init__(self, config: ClipConfig, parts: tuple[Part, ...]):
        super().__init__()
        d, patch, (rows, columns) = config.vision_width, config.patch_size, config.grid
        self.conv1 = nn.Conv2d(3, d, patch, patch, bias=False)
        self.class_embedding = random_parameter(d)
        self.positional_embedding = random_parameter(1 + rows * columns, d)
        self.ln_pre, self.ln_post = nn.LayerNorm(d), nn.LayerNorm(d)
        sizes = d, config.vision_heads, config.vision_mlp
        self.transformer = Transformer(sizes, config.vision_layers, parts)
        self.proj = random_parameter(d, config.embed_dim)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], prompts: list[Float[Tensor, "n d"]]
    ) -> Float[Tensor, "b e"]:
        """Returns unnormalized features of normalized images."""
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = insert(x, self.class_embedding[None], 0) + self.positional_embedding
        start = x.shape[1]
        if prompts:
            x = insert(x, prompts[0], start)
        x = self.transformer(self.ln_pre(x), False, prompts, start)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    """CLIP with the parts of one of the three methods, which alone train."""

    def __init__(self, config: ClipConfig, method: Method):
        super().__init__()
        w = config.text_width
        self.visual = VisionTower(config, method.vision)
        self.token_embedding = nn.Embedding(config.vocab_size, w)
        self.positional_embedding = random_parameter(config.context_length, w)
        sizes = w, config.text_heads, config.text_mlp
        self.transformer = Transformer(sizes, config.text_layers, method.text)
        self.ln_final = nn.LayerNorm(w)
        self.text_projection = random_parameter(w, config.embed_dim)
        self.prompts = CrossPrompts(method.prompts, config) if method.prompts else None
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(word in name for word in TRAINABLE))

    def forward(
        self, images: Float[Tensor, "b 3 h w"], ids: Int[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b e"], Float[Tensor, "b e"]]:
        """Returns unnormalized features of normalized images and of texts."""
        visual_prompts, text_prompts = self.prompts() if self.prompts else ([], [])
        return self.visual(images, visual_prompts), self.encode_text(ids, text_prompts)

    def encode_text(
        self, ids: Int[Tensor, "b l"], prompts: list[Float[Tensor, "n d"]]
    ) -> Float[Tensor, "b e"]:
        """Returns unnormalized features of texts."""
        count = len(prompts[0]) if prompts else 0
        if prompts:
            ids = shift_ids(ids, count)
        x = self.token_embedding(ids)
        if prompts:
            x = insert(x, prompts[0], 1, replaced=count)
        x = self.transformer(x + self.positional_embedding, True, prompts, 1)
        return self.ln_final(x[torch.arange(len(x), device=x.device), ids.argmax(-1)]) @ self.text_projection


def shift_ids(ids: Int[Tensor, "b l"], count: int) -> Int[Tensor, "b l"]:
    """Makes room for `count` prompts after start of text; a text that is cut still ends with end of text."""
    room = ids.shape[1] - count
    shifted = torch.cat([ids[:, :1], torch.zeros_like(ids[:, :count]), ids[:, 1:room]], 1)
    end, position = ids.max(-1)
    shifted[:, -1] = torch.where(position >= room, end, shifted[:, -1])
    return shifted


def sdm(logits: Float[Tensor, "b b"], pids: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Computes the similarity distribution matching loss of both directions."""
    same = (pids[:, None] == pids).float()
    log_targets = torch.log(same / same.sum(1, keepdim=True) + 1e-8)
    log_probabilities = [logits.log_softmax(1), logits.T.log_softmax(1)]
    return torch.stack([(p.exp() * (p - log_targets)).sum(1).mean() for p in log_probabilities]).sum()


def itc(logits: Float[Tensor, "b b"], pids: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Computes the mean cross-entropy of both directions, with only the pairs of the batch as positives."""
    targets = torch.arange(len(pids), device=pids.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def balance(model: nn.Module) -> Float[Tensor, ""]:
    """Returns the sum of the load-balance terms of all mixtures."""
    return torch.stack([one.balance for one in model.modules() if isinstance(one, Mixture)]).sum()


def compute_losses(
    model: Clip, batch: tuple[Tensor, Tensor, Tensor], weights: Mapping[str, float], scale: float, dtype: str
) -> dict[str, Float[Tensor, ""]]:
    """Computes the weighted losses of a batch.

    Args:
      model: the model.
      batch: normalized images [b, 3, h, w], ids [b, l] and identities [b].
      weights: the weight of each loss, one of "sdm", "itc" and, with a mixture, "balance".
      scale: the factor on cosine similarities, 1 / temperature.
      dtype: the type that the towers compute in; "bfloat16" by autocast.
    """
    images, ids, pids = batch
    with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        image_feats, text_feats = model(images, ids)
    logits = scale * F.normalize(text_feats.float()) @ F.normalize(image_feats.float()).T
    by_name = {
        "sdm": lambda: sdm(logits, pids),
        "itc": lambda: itc(logits, pids),
        "balance": lambda: balance(model),
    }
    return {name: weight * by_name[name]() for name, weight in weights.items()}


def adam(
    model: Clip, *, lr: float, bias_lr_factor: float, weight_decay: float, **settings
) -> torch.optim.Adam:
    """Returns Adam over the trainable parameters; biases have a rate of their own and no weight decay."""
    trainable = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    biases = [one for name, one in trainable if name.endswith("bias")]
    others = [one for name, one in trainable if not name.endswith("bias")]
    groups = [
        {"params": others, "lr": lr, "weight_decay": weight_decay},
        {"params": biases, "lr": lr * bias_lr_factor, "weight_decay": 0.0},
    ]
    return torch.optim.Adam(groups, fused=True, **settings)
