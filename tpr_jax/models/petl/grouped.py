"""A mixture of which only the chosen experts are computed: tokens are sorted into blocks of one expert each.

All shapes are known beforehand, so no token is dropped however uneven the choice is. Sorting is by gathers,
forwards and backwards, for rows are slow to scatter.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tpr_jax.models.matmul import dense

BLOCK = 64  # rows of a block: of more, more are empty; of fewer, the products are too small


def rows(tokens: int, experts: int, top_k: int, block: int = BLOCK) -> int:
    """How many rows the blocks have, however the tokens choose: of each expert the last may be part empty."""
    return (-(-tokens * top_k // block) + experts) * block


def chosen_experts(weights: Float[Array, "t e"], top_k: int) -> Int[Array, "t k"]:
    """The experts of the k highest weights, each once, even where weights have become 0."""
    return jax.lax.top_k(weights, top_k)[1]


def sort(chosen: Int[Array, "t k"], experts: int, block: int) -> tuple[Array, Array, Array]:
    """Where each choice goes: (the row of each choice [t, k], the choice `t * k + j` of each row [n], or
    t * k where it has none, and the expert of each block [n / block])."""
    t, k = chosen.shape
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat)  # the choices of the first expert, then those of the second, ...
    counts = jax.nn.one_hot(flat, experts, dtype=jnp.int32).sum(0)
    blocks = -(-counts // block)
    ends, block_ends = jnp.cumsum(counts), jnp.cumsum(blocks)
    gaps = (block_ends - blocks) * block - (ends - counts)
    place = jnp.zeros_like(flat).at[order].set(jnp.arange(t * k) + gaps[flat[order]])
    total = rows(t, experts, k, block)
    source = jnp.full(total, t * k, jnp.int32).at[place].set(jnp.arange(t * k, dtype=jnp.int32))
    expert = (jnp.arange(total // block)[:, None] >= block_ends).sum(-1)
    return place.reshape(t, k), source, jnp.minimum(expert, experts - 1)


def _rows_of(x: Float[Array, "m d"], index: Int[Array, " n"]) -> Float[Array, "n d"]:
    """Rows of x; nothing where the index is m."""
    return jnp.concatenate([x, jnp.zeros_like(x[:1])])[index]


@jax.custom_vjp
def spread(u: Float[Array, "t d"], place: Int[Array, "t k"], source: Int[Array, " n"]) -> Float[Array, "n d"]:
    """Each token in the rows of its choices."""
    return _rows_of(u, source // place.shape[1])


spread.defvjp(
    lambda u, place, source: (spread(u, place, source), place),
    lambda place, g: (g[place].sum(1), None, None),
)


@jax.custom_vjp
def collect(
    y: Float[Array, "n d"], place: Int[Array, "t k"], source: Int[Array, " n"]
) -> Float[Array, "t k d"]:
    """The rows of each token's choices."""
    return y[place]


collect.defvjp(
    lambda y, place, source: (y[place], source),
    lambda source, g: (_rows_of(g.reshape(-1, g.shape[-1]), source), None, None),
)


def mixture(
    u: Float[Array, "t d"],
    weights: Float[Array, "t e"],
    top_k: int,
    down: dict,
    up: dict,
    block: int = BLOCK,
) -> Float[Array, "t d"]:
    """`moe.mixture` of weights that are 0 but for k experts a token."""
    d, e, r = down["kernel"].shape
    place, source, expert = sort(chosen_experts(jax.lax.stop_gradient(weights), top_k), e, block)
    hot = jax.nn.one_hot(expert, e, dtype=u.dtype)

    def of_blocks(leaf):  # by a product, whose derivative is one too
        return dense(hot, leaf.reshape(e, -1)).reshape(len(expert), *leaf.shape[1:])

    x = spread(u, place, source).reshape(-1, block, d)
    hidden = dense(x, of_blocks(down["kernel"].swapaxes(0, 1))) + of_blocks(down["bias"])[:, None]
    y = dense(jax.nn.relu(hidden), of_blocks(up["kernel"])).reshape(-1, d)
    weights = weights.astype(u.dtype)
    own = jnp.take_along_axis(weights, expert[place // block], -1)
    return (collect(y, place, source) * own[..., None]).sum(1) + dense(weights, up["bias"])
