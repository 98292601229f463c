"""Low-rank updates of frozen dense layers: LoRA (ICLR 2022) and DoRA (ICML 2024)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tpr_jax.models.matmul import dense, save_product


def delta(
    x: Float[Array, "*batch d"], updates: Sequence[dict | None], width: int, dtype: DTypeLike | None = None
) -> Float[Array, "*batch {len(updates)*width}"]:
    """Computes what low-rank updates add to `x @ W`, where W has one column block of `width` per update.

    All updates are computed as two products: A side by side, B block-diagonal, from the first column block
    with an update to the last.

    Args:
      x: the input of W.
      updates: for each column block None, or `a` [d, r], `b` [r, width] and the number `scale` of the update
        `scale * x A B`, without a factor alpha / r.
      width: the number of columns of each block.
      dtype: of the result; by default that of x.

    Returns:
      The values to add to the columns of all blocks.
    """
    held = [i for i, update in enumerate(updates) if update is not None]
    first, end = held[0], held[-1] + 1
    rows = []
    for i, update in enumerate(updates[first:end]):
        if update is not None:
            # Scaling the small matrix makes a learned scale free of cost per token.
            blocks = [jnp.zeros((update["b"].shape[0], width), update["b"].dtype)] * (end - first)
            blocks[i] = update["scale"] * update["b"]
            rows.append(jnp.concatenate(blocks, axis=1))
    a = jnp.concatenate([update["a"] for update in updates if update is not None], axis=1)
    product = dense(save_product(dense(x, a)), jnp.concatenate(rows, axis=0), dtype=dtype)
    outside = (first * width, (len(updates) - end) * width)
    return jnp.pad(product, ((0, 0),) * (x.ndim - 1) + (outside,))


def merge_kernel(kernel: Float[Array | np.ndarray, "d n"], update: dict) -> Float[Array | np.ndarray, "d n"]:
    """Folds an update into a kernel: `W + scale * A B`, with DoRA's magnitudes where the update has them."""
    merged = kernel + update["scale"] * update["a"] @ update["b"]
    if "magnitude" not in update:
        return merged
    return merged * magnitude_ratio(kernel, update)


def magnitude_ratio(kernel: Float[Array | np.ndarray, "d n"], update: dict) -> Float[Array, " n"]:
    """Computes DoRA's factor on each column of `W + scale * A B`, `m |W| / |W + scale * A B|`, in float32.

    This is eq. 5 of the paper with the magnitude as a multiple m of W's own norms, so that m is initialized
    to 1. The norm in the denominator is a constant in the gradient (section 4.3 of the paper).
    """
    kernel = kernel.astype(jnp.float32)
    merged = jax.lax.stop_gradient(kernel + update["scale"] * update["a"] @ update["b"])
    return update["magnitude"] * jnp.linalg.norm(kernel, axis=0) / jnp.linalg.norm(merged, axis=0)
