"""DM-Adapter's sparse mixture of adapters with a domain-aware router (AAAI 2025)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.matmul import dense
from tpr_jax.models.petl import grouped


def router_logits(u: Float[Array, "b l d"], router: dict, kind: str) -> Float[Array, "b l e"]:
    """The score of each expert for each token, float32.

    'blend' (the released code): `(1 - a) W_in u + a W_task p`; 'sum' (the paper): `W_in u + W_task p`;
    'input' (the paper's ablation without the domain): `W_in u`. `router` holds `w_in` and `w_task` [d, e],
    the domain prompt `prompt` [d] and the scalar `alpha`, as far as the kind needs them.
    """
    by_input = dense(u, router["w_in"]).astype(jnp.float32)
    if kind == "input":
        return by_input
    # One vector of e numbers for the whole block: the prompt does not depend on the token.
    by_domain = router["prompt"] @ router["w_task"]
    if kind == "sum":
        return by_input + by_domain
    return (1.0 - router["alpha"]) * by_input + router["alpha"] * by_domain


def choose(logits: Float[Array, "b l e"], top_k: int) -> tuple[Array, Array]:
    """The k best experts of each token: (weights [b, l, e] that sum to 1, the k-hot choice [b, l, e]).

    Top-k first, then softmax over the chosen logits only. No noise, no capacity, no dropped token.
    """
    best, index = jax.lax.top_k(logits, top_k)
    hot = jax.nn.one_hot(index, logits.shape[-1], dtype=logits.dtype)
    weights = jnp.einsum("blk,blke->ble", jax.nn.softmax(best, axis=-1), hot)
    return weights, hot.sum(-2)


def shares(logits: Float[Array, "b l e"], chosen: Float[Array, "b l e"]) -> tuple[Array, Array]:
    """(the mean softmax over all experts, the mean k-hot choice), both [e]; padding counts."""
    return jax.nn.softmax(logits, axis=-1).mean((0, 1)), jax.lax.stop_gradient(chosen).mean((0, 1))


def balance_of(probability: Float[Array, " e"], chosen: Float[Array, " e"]) -> Float[Array, ""]:
    """The load-balance term of a block, `E * mean_e(P_e C_e)`: k / E when all experts are used alike.

    P and C are the `shares`. The gradient flows through P only, as a choice has none.
    """
    return probability.shape[-1] * jnp.mean(probability * chosen)


def balance(logits: Float[Array, "b l e"], chosen: Float[Array, "b l e"]) -> Float[Array, ""]:
    """`balance_of` the scores and choices of all tokens."""
    return balance_of(*shares(logits, chosen))


def mixture(
    u: Float[Array, "b l d"], weights: Float[Array, "b l e"], top_k: int, down: dict, up: dict
) -> Float[Array, "b l d"]:
    """The weighted sum of the experts' outputs, `sum_e w_e (Up_e ReLU(Down_e u + b_e) + c_e)`.

    The weights are 0 but for `top_k` experts a token. `down`: kernel [d, e, r], bias [e, r];
    `up`: kernel [e, r, d], bias [e, d]. For a handful of small experts all are computed, as two large
    products over their stacked weights; of many only those that are chosen (`grouped.py`).
    """
    d, e, r = down["kernel"].shape
    if pays_to_sort(u.size // d, e, top_k):
        return grouped.mixture(u.reshape(-1, d), weights.reshape(-1, e), top_k, down, up).reshape(u.shape)
    weights = weights.astype(u.dtype)
    hidden = dense(u, down["kernel"].reshape(d, e * r)) + down["bias"].reshape(e * r).astype(u.dtype)
    hidden = jax.nn.relu(hidden).reshape(*u.shape[:-1], e, r) * weights[..., None]
    return dense(hidden.reshape(*u.shape[:-1], e * r), up["kernel"].reshape(e * r, d)) + dense(
        weights, up["bias"]
    )


def pays_to_sort(tokens: int | Any, experts: int, top_k: int) -> bool:
    """Whether to compute only the chosen experts: where that is a quarter of the rows or less, for sorting
    costs as much again.

    On two CPU cores, forwards and backwards, ViT-B/16's width, 1,544 tokens, 2 chosen: of 8 experts 41 ms for
    all and 53 for the chosen, of 16 93 and 68, of 32 179 and 83. On a mesh, where tokens and experts are
    spread over devices, always all; and in an export, which does not know how many tokens there will be.
    """
    alone = jax.sharding.get_abstract_mesh().empty and isinstance(tokens, int)
    return alone and 4 * grouped.rows(tokens, experts, top_k) <= tokens * experts


def low_rank_mixture(
    x: Float[Array, "b l d"],
    weights: Float[Array, "b l e"],
    a: Float[Array, "d e r"],
    b: Float[Array, "e r n"],
) -> Float[Array, "b l n"]:
    """The weighted sum of low-rank experts, `sum_e w_e B_e A_e x`, all experts as two products."""
    d, e, r = a.shape
    hidden = dense(x, a.reshape(d, e * r)).reshape(*x.shape[:-1], e, r)
    hidden = hidden * weights.astype(x.dtype)[..., None]
    return dense(hidden.reshape(*x.shape[:-1], e * r), b.reshape(e * r, -1))
