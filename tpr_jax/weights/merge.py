"""Folds what can be folded of a method into CLIP's own weights, for inference."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tpr_jax.errors import ArgumentError
from tpr_jax.models.methods import Method, zero_shot
from tpr_jax.models.petl.lora import merge_kernel
from tpr_jax.models.petl.prefix import prefix_tokens
from tpr_jax.models.petl_config import Lora, Prefix, slots_of_block
from tpr_jax.utils.trees import flatten, unflatten

QKV = ("q", "k", "v")  # laid side by side in one kernel


def merge(method: Method, variables: Mapping) -> tuple[Method, dict]:
    """(method, variables) of a model that gives the same features with fewer parts.

    Low-rank updates go into CLIP's kernels, DoRA's magnitudes with them; the scalars of a prefix into its key
    and value tokens; CLIP's own tuned weights become plain weights. Adapters, mixtures and prompts depend on
    their input and stay. Where nothing is left the method is `zero_shot`. The heads of losses are dropped.
    `variables` holds the method's collections and all of `params`, NumPy or JAX, and is left as it is; where
    no kernel changes, `params` is returned as it came.

    Raises:
      ArgumentError: `method` or `variables` is something else, or a collection is missing.
    """
    if not isinstance(method, Method):
        raise ArgumentError(f"method must be a Method of models.methods, not {type(method).__name__}")
    missing = [name for name in ("params", *method.trainable) if name not in _mapping(variables)]
    if missing and missing[0] != "head":
        raise ArgumentError(
            f"variables have no collection {missing[0]!r}, which method {method.name!r} needs"
        )
    parts = {name: tree for name, tree in variables.items() if name not in ("head", "lora", "prefix")}
    if "lora" in variables:
        parts["params"] = _with_low_rank(method, variables)
    if "prefix" in variables:
        parts["prefix"] = _folded_prefix(variables["prefix"])

    def left(tower) -> tuple:
        parts = (part for part in tower if not isinstance(part, Lora))
        return tuple(
            dataclasses.replace(part, gate=None, scaled=False) if isinstance(part, Prefix) else part
            for part in parts
        )

    rest = dataclasses.replace(method, vision=left(method.vision), text=left(method.text), tuned=())
    return (rest if rest.vision or rest.text or rest.prompts else zero_shot()), parts


def _mapping(variables) -> Mapping:
    if not isinstance(variables, Mapping):
        raise ArgumentError(f"variables must be a dict of collections, not {type(variables).__name__}")
    return variables


def _with_low_rank(method: Method, variables: Mapping) -> dict:
    flat = flatten(variables["params"])
    for tower, parts in (("visual", method.vision), ("text", method.text)):
        layers = sum(name.startswith("block_") for name in variables["params"][tower])
        for i in range(layers):
            for slot, part in slots_of_block(parts, i, layers).items():
                if not isinstance(part, Lora):
                    continue
                target = slot.removeprefix("lora_")
                layer = {"out": "attn/out", "fc": "mlp/fc", "proj": "mlp/proj"}.get(target, "attn/qkv")
                piece = variables["lora"][tower][f"block_{i}"]
                for name in (*layer.split("/"), slot):
                    piece = piece[name]
                # NumPy's products keep float32, where an accelerator's may round to a narrower type.
                piece = {"scale": part.scale} | {key: np.asarray(leaf) for key, leaf in piece.items()}
                path = f"{tower}/block_{i}/{layer}/kernel"
                kernel = np.array(flat[path], np.float32)
                width = kernel.shape[1] // (3 if target in QKV else 1)
                first = width * (QKV.index(target) if target in QKV else 0)
                columns = slice(first, first + width)
                kernel[:, columns] = merge_kernel(kernel[:, columns], piece)
                flat[path] = kernel
    return unflatten(flat)


def _folded_prefix(prefix: Mapping) -> dict:
    """Each block's `key` and `value`, scalars folded in."""
    if "key" not in prefix:
        return {name: _folded_prefix(inner) for name, inner in prefix.items()}
    key, value = prefix_tokens({name: np.asarray(leaf) for name, leaf in prefix.items()})
    return {"key": np.asarray(key, np.float32), "value": np.asarray(value, np.float32)}
