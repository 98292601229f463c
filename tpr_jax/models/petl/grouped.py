"""A mixture of experts that computes only the selected experts, on tokens sorted into blocks of one expert.

All shapes are static, so no token is dropped however uneven the routing is. Sorting uses gathers, forward and
backward, because scattering rows is slow.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tpr_jax.models.matmul import dense, save_product

BLOCK = 64  # rows of a block: larger ones have more padding, smaller ones make the products too small


def padded_rows(tokens: int, experts: int, top_k: int, block: int = BLOCK) -> int:
    """Returns the number of rows in all blocks, enough for any routing; an expert's last block is padded."""
    return (-(-tokens * top_k // block) + experts) * block


def selected_experts(weights: Float[Array, "t e"], top_k: int) -> Int[Array, "t k"]:
    """Returns the experts of the `top_k` highest weights, all different even where weights underflow to 0."""
    return jax.lax.top_k(weights, top_k)[1]


def sort_by_expert(
    selected: Int[Array, "t k"], experts: int, block: int
) -> tuple[Int[Array, "t k"], Int[Array, " n"], Int[Array, " m"]]:
    """Assigns each selection a row in a block of its expert; n rows in m = n / block blocks.

    Returns:
      The row of each selection, the selection `t * k + j` in each row (the number of selections where the row
      is padding), and the expert of each block.
    """
    t, k = selected.shape
    flat = selected.reshape(-1)
    order = jnp.argsort(flat)  # the selections of the first expert, then those of the second, ...
    counts = jax.nn.one_hot(flat, experts, dtype=jnp.int32).sum(0)
    blocks = -(-counts // block)
    ends, block_ends = jnp.cumsum(counts), jnp.cumsum(blocks)
    gaps = (block_ends - blocks) * block - (ends - counts)
    row = jnp.zeros_like(flat).at[order].set(jnp.arange(t * k) + gaps[flat[order]])
    total = padded_rows(t, experts, k, block)
    source = jnp.full(total, t * k, jnp.int32).at[row].set(jnp.arange(t * k, dtype=jnp.int32))
    expert = (jnp.arange(total // block)[:, None] >= block_ends).sum(-1)
    return row.reshape(t, k), source, jnp.minimum(expert, experts - 1)


def _take_rows(x: Float[Array, "m d"], index: Int[Array, " n"]) -> Float[Array, "n d"]:
    """Gathers rows of x; zeros where the index is m."""
    return jnp.concatenate([x, jnp.zeros_like(x[:1])])[index]


@jax.custom_vjp
def dispatch(u: Float[Array, "t d"], row: Int[Array, "t k"], source: Int[Array, " n"]) -> Float[Array, "n d"]:
    """Copies each token to the rows of its selections."""
    return _take_rows(u, source // row.shape[1])


dispatch.defvjp(
    lambda u, row, source: (dispatch(u, row, source), row),
    lambda row, g: (g[row].sum(1), None, None),
)


@jax.custom_vjp
def collect(
    y: Float[Array, "n d"], row: Int[Array, "t k"], source: Int[Array, " n"]
) -> Float[Array, "t k d"]:
    """Returns the rows of each token's selections."""
    return y[row]


collect.defvjp(
    lambda y, row, source: (y[row], source),
    lambda source, g: (_take_rows(g.reshape(-1, g.shape[-1]), source), None, None),
)


def mixture(
    u: Float[Array, "t d"],
    weights: Float[Array, "t e"],
    top_k: int,
    down: dict,
    up: dict,
    block: int = BLOCK,
) -> Float[Array, "t d"]:
    """Computes the same as `moe.mixture`, for weights that are 0 except for `top_k` experts of each token."""
    d, e, _ = down["kernel"].shape
    row, source, expert = sort_by_expert(selected_experts(jax.lax.stop_gradient(weights), top_k), e, block)
    hot = jax.nn.one_hot(expert, e, dtype=u.dtype)

    def per_block(leaf):  # a product instead of a gather, so that the gradient is a product too
        return dense(hot, leaf.reshape(e, -1)).reshape(len(expert), *leaf.shape[1:])

    x = dispatch(u, row, source).reshape(-1, block, d)
    hidden = dense(x, per_block(down["kernel"].swapaxes(0, 1))) + per_block(down["bias"])[:, None]
    y = save_product(dense(jax.nn.relu(save_product(hidden)), per_block(up["kernel"]))).reshape(-1, d)
    weights = weights.astype(u.dtype)
    selected_weights = jnp.take_along_axis(weights, expert[row // block], -1)
    return (collect(y, row, source) * selected_weights[..., None]).sum(1) + dense(weights, up["bias"])
