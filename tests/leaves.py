"""The variables of CLIP and of the methods, written out from their definitions: {"outer/leaf": shape}."""

import jax
import numpy as np


def shapes_of(tree) -> dict:
    """Returns {"outer/inner/leaf": shape} of a tree of arrays."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in flat}


def total(leaves: dict) -> int:
    return sum(int(np.prod(shape)) for shape in leaves.values())


def towers(c):
    return (
        ("visual", c.vision_layers, c.vision_width, c.vision_mlp),
        ("text", c.text_layers, c.text_width, c.text_mlp),
    )


def blocks(c, leaves_of, first=0, end=None):
    """Returns the leaves `leaves_of(width, mlp)` in the blocks first, ..., end - 1 of both towers."""
    return {
        f"{tower}/block_{i}/{name}": shape
        for tower, layers, width, mlp in towers(c)
        for i in range(first, layers if end is None else end)
        for name, shape in leaves_of(width, mlp).items()
    }


def within(stem, leaves):
    return {f"{stem}/{name}": shape for name, shape in leaves.items()}


def norm_leaves(d):
    return {"scale": (d,), "bias": (d,)}


def linear_leaves(inputs, outputs):
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def block_leaves(d, mlp):
    return {
        **within("ln_1", norm_leaves(d)),
        **within("ln_2", norm_leaves(d)),
        **within("attn/qkv", linear_leaves(d, 3 * d)),
        **within("attn/out", linear_leaves(d, d)),
        **within("mlp/fc", linear_leaves(d, mlp)),
        **within("mlp/proj", linear_leaves(mlp, d)),
    }


def clip_leaves(c):
    d, w = c.vision_width, c.text_width
    rows, columns = c.image_size[0] // c.patch_size, c.image_size[1] // c.patch_size
    leaves = {
        "visual/class_embedding": (d,),
        "visual/conv1/kernel": (c.patch_size, c.patch_size, 3, d),
        "visual/positional_embedding": (1 + rows * columns, d),
        "visual/proj": (d, c.embed_dim),
        "text/token_embedding": (c.vocab_size, w),
        "text/positional_embedding": (c.context_length, w),
        "text/proj": (w, c.embed_dim),
    }
    for stem, width in {"visual/ln_pre": d, "visual/ln_post": d, "text/ln_final": w}.items():
        leaves |= within(stem, norm_leaves(width))
    return leaves | blocks(c, block_leaves)


def adapter_leaves(d, reduction):
    r = d // reduction
    return {**within("down", linear_leaves(d, r)), **within("up", linear_leaves(r, d))}


def router_leaves(d, e):
    return {"w_in": (d, e), "w_task": (d, e), "prompt": (d,), "alpha": ()}


def moe_leaves(d, e, reduction):
    r = d // reduction
    return {
        **within("ln_3", norm_leaves(d)),
        **within("router", router_leaves(d, e)),
        "down/kernel": (d, e, r),
        "down/bias": (e, r),
        "up/kernel": (e, r, d),
        "up/bias": (e, d),
    }


def lora_leaves(d, width, rank, learned_scale=True):
    return {"a": (d, rank), "b": (rank, width)} | ({"scale": ()} if learned_scale else {})


def prefix_leaves(d, length):
    scalars = dict.fromkeys(("key_scale", "value_scale", "gate"), ())
    return {"key": (length, d), "value": (length, d), **scalars}


def prompt_leaves(c, length, depth):
    v, w = c.vision_width, c.text_width
    return within(
        "prompts",
        {
            "visual": (depth, length, v),
            "text": (depth, length, w),
            "to_visual/kernel": (depth, w, v),
            "to_visual/bias": (depth, v),
            "to_text/kernel": (depth, v, w),
            "to_text/bias": (depth, w),
        },
    )


# The methods


def dm_adapter_leaves(c, experts=6, reduction=8):
    return {"moe": blocks(c, lambda d, _: within("beside_mlp", moe_leaves(d, experts, reduction)))}


def parallel_adapter_leaves(c, reduction=8):
    def leaves(d, _):
        return within("beside_mlp", {**within("ln_3", norm_leaves(d)), **adapter_leaves(d, reduction)})

    return {"adapter": blocks(c, leaves)}


def up_person_leaves(c, rank, prefix, reduction=8):
    def adapters(d, _):
        one = {**adapter_leaves(d, reduction), "scale": ()}
        return {**within("beside_ln_1", one), **within("beside_ln_2", one)}

    def loras(d, _):
        one = lora_leaves(d, d, rank)
        return {**within("attn/qkv/lora_k", one), **within("attn/qkv/lora_v", one)}

    return {
        "adapter": blocks(c, adapters),
        "lora": blocks(c, loras),
        "prefix": blocks(c, lambda d, _: within("attn/prefix", prefix_leaves(d, prefix))),
    }


def cskt_leaves(c, length=4, reduction=8):
    depth = min(c.vision_layers, c.text_layers)
    return {**parallel_adapter_leaves(c, reduction), "prompt": prompt_leaves(c, length, depth)}


def sequential_adapter_leaves(c, reduction=8):
    def leaves(d, _):
        one = adapter_leaves(d, reduction)
        return {**within("after_attn", one), **within("after_mlp", one)}

    return {"adapter": blocks(c, leaves)}


def lora_method_leaves(c, rank, targets, learned_scale):
    def leaves(d, _):
        one = lora_leaves(d, d, rank, learned_scale)
        first, second = targets
        return {**within(f"attn/qkv/lora_{first}", one), **within(f"attn/qkv/lora_{second}", one)}

    return {"lora": blocks(c, leaves)}


def lora_moe_leaves(c, rank, experts=6):
    def one(d, n):
        return {"router/w_in": (d, experts), "a": (d, experts, rank), "b": (experts, rank, n)}

    def leaves(d, mlp):
        return {**within("mlp/fc/lora_fc", one(d, mlp)), **within("mlp/proj/lora_proj", one(mlp, d))}

    return {"moe": blocks(c, leaves)}


def head_leaves(c, classes, depth):
    """Returns the leaves of IRRA's heads: the classifier of identities, and the masked words'."""
    e = c.embed_dim
    mlm = {}
    for name in ("ln_pre_t", "ln_pre_i", "ln_post", "mlm_head_ln"):
        mlm |= within(name, norm_leaves(e))
    mlm |= within("cross_attn/qkv", linear_leaves(e, 3 * e)) | within("cross_attn/out", linear_leaves(e, e))
    for i in range(depth):
        mlm |= within(f"cross_block_{i}", block_leaves(e, 4 * e))
    mlm |= within("mlm_head_dense", linear_leaves(e, e))
    mlm |= within("mlm_head_fc", linear_leaves(e, c.vocab_size))
    return {**within("classifier", linear_leaves(e, classes)), **within("masked_words", mlm)}
