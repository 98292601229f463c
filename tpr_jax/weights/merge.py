"""Folds a method into CLIP's own weights for inference, as far as possible."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tpr_jax.errors import ArgumentError
from tpr_jax.models.methods import Method, zero_shot
from tpr_jax.models.petl.lora import merge_kernel
from tpr_jax.models.petl.prefix import prefix_tokens
from tpr_jax.models.petl_config import Lora, Part, Prefix, slots_of_block
from tpr_jax.utils.trees import flatten, unflatten

QKV = ("q", "k", "v")  # concatenated in one kernel
LAYERS = {"out": "attn/out", "fc": "mlp/fc", "proj": "mlp/proj"}  # LoRA target -> layer; q, k, v: attn/qkv


def merge(method: Method, variables: Mapping) -> tuple[Method, dict]:
    """Returns the method and variables of a model with the same features and fewer modules.

    LoRA updates and DoRA magnitudes are added to CLIP's kernels, the scalars of a prefix to its key and value
    tokens, and tuned weights become plain weights. Adapters, mixtures of experts and prompts depend on their
    input and remain. If nothing remains, the method is `zero_shot`. The heads of losses are dropped.

    Args:
      method: the method to fold.
      variables: the method's collections and all of `params`, NumPy or JAX; not modified.

    Returns:
      The remaining method and new variables; `params` is the same object if no kernel changes.

    Raises:
      ArgumentError: an argument has the wrong type, or a collection is missing.
    """
    if not isinstance(method, Method):
        raise ArgumentError(f"method must be a Method of models.methods, not {type(method).__name__}")
    missing = [name for name in ("params", *method.trainable) if name not in _mapping(variables)]
    if missing and missing[0] != "head":
        raise ArgumentError(
            f"variables have no collection {missing[0]!r}, which method {method.name!r} needs"
        )
    merged_variables = {
        name: tree for name, tree in variables.items() if name not in ("head", "lora", "prefix")
    }
    if "lora" in variables:
        merged_variables["params"] = _merge_lora(method, variables)
    if "prefix" in variables:
        merged_variables["prefix"] = _merge_prefix(variables["prefix"])

    def remaining(tower: Sequence[Part]) -> tuple[Part, ...]:
        return tuple(
            dataclasses.replace(part, gate=None, scaled=False) if isinstance(part, Prefix) else part
            for part in tower
            if not isinstance(part, Lora)
        )

    rest = dataclasses.replace(method, vision=remaining(method.vision), text=remaining(method.text), tuned=())
    return (rest if rest.vision or rest.text or rest.prompts else zero_shot()), merged_variables


def _mapping(variables) -> Mapping:
    if not isinstance(variables, Mapping):
        raise ArgumentError(f"variables must be a dict of collections, not {type(variables).__name__}")
    return variables


def _merge_lora(method: Method, variables: Mapping) -> dict:
    """Returns `params` with the low-rank updates of all blocks added."""
    flat = flatten(variables["params"])
    for tower, parts in (("visual", method.vision), ("text", method.text)):
        layers = sum(name.startswith("block_") for name in variables["params"][tower])
        for i in range(layers):
            for slot, part in slots_of_block(parts, i, layers).items():
                if not isinstance(part, Lora):
                    continue
                target = slot.removeprefix("lora_")
                layer = LAYERS.get(target, "attn/qkv")
                leaves = variables["lora"][tower][f"block_{i}"]
                for name in (*layer.split("/"), slot):
                    leaves = leaves[name]
                # In NumPy: an accelerator may round float32 products to a narrower type.
                leaves = {"scale": part.scale} | {key: np.asarray(leaf) for key, leaf in leaves.items()}
                path = f"{tower}/block_{i}/{layer}/kernel"
                kernel = np.array(flat[path], np.float32)
                width = kernel.shape[1] // (3 if target in QKV else 1)
                first = width * (QKV.index(target) if target in QKV else 0)
                columns = slice(first, first + width)
                kernel[:, columns] = merge_kernel(kernel[:, columns], leaves)
                flat[path] = kernel
    return unflatten(flat)


def _merge_prefix(prefix: Mapping) -> dict:
    """Returns each block's `key` and `value` with the scalars folded in."""
    if "key" not in prefix:
        return {name: _merge_prefix(inner) for name, inner in prefix.items()}
    key, value = prefix_tokens({name: np.asarray(leaf) for name, leaf in prefix.items()})
    return {"key": np.asarray(key, np.float32), "value": np.asarray(value, np.float32)}
