"""Low-rank updates of frozen products: LoRA (ICLR 2022) and DoRA (ICML 2024)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.matmul import dense


def delta(
    x: Float[Array, "b l d"], pieces: Sequence[dict | None], width: int
) -> Float[Array, "b l {len(pieces)*width}"]:
    """What the low-rank updates add to `x @ W`, whose columns are n pieces of `width` each.

    A piece is None, or holds `a` [d, r], `b` [r, width] and the number `scale`: it gets `scale * x A B`, with
    no factor alpha / r. All pieces are computed as two products: A side by side, B block-diagonal.
    """
    held = [piece for piece in pieces if piece is not None]
    rows = []
    for i, piece in enumerate(pieces):
        if piece is not None:
            # The scale goes to the small matrix: a learned one then costs nothing a token.
            blocks = [jnp.zeros((piece["b"].shape[0], width), piece["b"].dtype)] * len(pieces)
            blocks[i] = piece["scale"] * piece["b"]
            rows.append(jnp.concatenate(blocks, axis=1))
    a = jnp.concatenate([piece["a"] for piece in held], axis=1)
    return dense(dense(x, a), jnp.concatenate(rows, axis=0))


def merged(kernel: Float[Array, "d n"], piece: dict) -> Float[Array, "d n"]:
    """The kernel with an update folded in: `W + scale * A B`, with DoRA's magnitudes if it has them."""
    whole = kernel + piece["scale"] * piece["a"] @ piece["b"]
    if "magnitude" not in piece:
        return whole
    return whole * magnitude_ratio(kernel, piece)


def magnitude_ratio(kernel: Float[Array, "d n"], piece: dict) -> Float[Array, " n"]:
    """DoRA's factor on each column of `W + scale * A B`, `m |W| / |W + scale * A B|`, float32.

    Its paper's eq. 5 with the magnitude as a multiple m of W's own norms, so that m starts at 1; the norm
    below counts as a constant in the gradient (its section 4.3).
    """
    kernel = kernel.astype(jnp.float32)
    whole = jax.lax.stop_gradient(kernel + piece["scale"] * piece["a"] @ piece["b"])
    return piece["magnitude"] * jnp.linalg.norm(kernel, axis=0) / jnp.linalg.norm(whole, axis=0)
