"""DM-Adapter's sparse mixture of adapters with a domain-aware router (AAAI 2025)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.matmul import dense, is_for_tpu, matmul_f32, save_product
from tpr_jax.models.petl import grouped


def router_logits(u: Float[Array, "b l d"], router: dict, kind: str) -> Float[Array, "b l e"]:
    """Computes each expert's score for each token, in float32.

    Args:
      u: the tokens.
      router: `w_in` and `w_task` [d, e], the domain prompt `prompt` [d] and the scalar `alpha`, as far as the
        kind needs them.
      kind: "blend" (the released code) computes `(1 - a) W_in u + a W_task p`, "sum" (the paper)
        `W_in u + W_task p`, "input" (the paper's ablation without the domain) `W_in u`.
    """
    by_input = dense(u, router["w_in"]).astype(jnp.float32)
    if kind == "input":
        return by_input
    # The prompt does not depend on the token, so one vector of e scores serves all of them.
    by_domain = router["prompt"] @ router["w_task"]
    if kind == "sum":
        return by_input + by_domain
    return (1.0 - router["alpha"]) * by_input + router["alpha"] * by_domain


def top_k_gating(
    logits: Float[Array, "b l e"], top_k: int
) -> tuple[Float[Array, "b l e"], Float[Array, "b l e"]]:
    """Selects the `top_k` experts of each token, without noise, capacity limits or dropped tokens.

    Returns:
      The softmax over the selected logits, 0 for all other experts, and the k-hot selection.
    """
    best, index = jax.lax.top_k(logits, top_k)
    hot = jax.nn.one_hot(index, logits.shape[-1], dtype=logits.dtype)
    weights = jnp.einsum("blk,blke->ble", jax.nn.softmax(best, axis=-1), hot)
    return weights, hot.sum(-2)


def routing_means(
    logits: Float[Array, "b l e"], selected: Float[Array, "b l e"]
) -> tuple[Float[Array, "b e"], Float[Array, "b e"]]:
    """Returns the mean softmax over all experts and the mean selection of each row, with its padding.

    The mean over rows follows after all blocks (`batch_statistics`). Otherwise the devices of a mesh would
    have to exchange a few numbers in each block, forward and backward.
    """
    return jax.nn.softmax(logits, axis=-1).mean(1), jax.lax.stop_gradient(selected).mean(1)


def batch_statistics(rows: dict) -> dict:
    """Computes the routing statistics of a batch from those of its rows, as `petl_modules.route` sows them.

    Returns:
      `probability` and `chosen` [e], the means over the batch; `load` [e], each expert's share of the tokens;
      `balance`, the load-balance loss; and where the router has it `alpha`.
    """
    probability, chosen = rows["probability"].mean(0), rows["chosen"].mean(0)
    means = {"probability": probability, "chosen": chosen, "load": chosen / chosen.sum()}
    return {**rows, **means, "balance": load_balance(probability, chosen)}


def load_balance(probability: Float[Array, " e"], selected: Float[Array, " e"]) -> Float[Array, ""]:
    """Computes a mixture's load-balance loss, `E * mean_e(P_e C_e)`.

    It is k / E when all experts are used equally. The gradient flows through the probabilities alone.

    Args:
      probability: P, the mean probability of each expert.
      selected: C, the mean selection of each expert; both as `routing_means` returns them.
    """
    return probability.shape[-1] * jnp.mean(probability * selected)


def mixture(
    u: Float[Array, "b l d"], weights: Float[Array, "b l e"], top_k: int, down: dict, up: dict
) -> Float[Array, "b l d"]:
    """Computes a mixture of adapters, `sum_e w_e (Up_e ReLU(Down_e u + b_e) + c_e)`.

    Computes all experts as two large matmuls over their stacked weights if they are few and small, and only
    the selected ones otherwise (`grouped.py`).

    Args:
      u: the tokens.
      weights: the experts' weights, 0 except for `top_k` experts of each token.
      top_k: the number of experts of each token.
      down: `kernel` [d, e, r] and `bias` [e, r].
      up: `kernel` [e, r, d] and `bias` [e, d].
    """
    d, e, _ = down["kernel"].shape
    if use_grouped(u.size // d, e, top_k):
        return grouped.mixture(u.reshape(-1, d), weights.reshape(-1, e), top_k, down, up).reshape(u.shape)
    arrays = down["kernel"], down["bias"], up["kernel"], up["bias"]
    return save_product(_all_experts(u, weights.astype(u.dtype), *arrays))


@jax.custom_vjp
def _all_experts(u, weights, down, down_bias, up, up_bias):
    return _all_experts_forward(u, weights, down, down_bias, up, up_bias)[0]


def _all_experts_forward(u, weights, down, down_bias, up, up_bias):
    """Saves the hidden layer once; by default JAX would save it weighted, unweighted, and as a mask."""
    d, e, r = down.shape
    hidden = dense(u, down.reshape(d, e * r), down_bias.reshape(e * r))
    hidden = save_product(jax.nn.relu(hidden))
    out = dense(hidden * _per_feature(weights, r), up.reshape(e * r, d)) + dense(weights, up_bias)
    return out, (u, weights, hidden, down, down_bias, up, up_bias)


def _all_experts_backward(residuals, g):
    u, weights, hidden, down, down_bias, up, up_bias = residuals
    d, e, r = down.shape
    spread = _per_feature(weights, r)
    grad, grad_up = _dense_gradients(hidden * spread, up.reshape(e * r, d), g)
    from_bias, grad_up_bias = _dense_gradients(weights, up_bias, g)
    grad_weights = _per_expert(grad * hidden, e) + from_bias
    grad = jnp.where(hidden > 0, grad * spread, 0)
    grad_u, grad_down = _dense_gradients(u, down.reshape(d, e * r), grad)
    grad_bias = grad.astype(jnp.float32).sum(tuple(range(grad.ndim - 1)))
    return (
        grad_u,
        grad_weights,
        grad_down.reshape(down.shape),
        grad_bias.reshape(e, r).astype(down_bias.dtype),
        grad_up.reshape(up.shape),
        grad_up_bias,
    )


_all_experts.defvjp(_all_experts_forward, _all_experts_backward)


def _dense_gradients(x, kernel, g):
    """Returns the gradients of `dense(x, kernel)`."""
    return jax.vjp(dense, x, kernel)[1](g)


def _per_feature(weights: Float[Array, "*rows e"], r: int) -> Float[Array, "*rows n"]:
    """Repeats each expert's weight for its r features."""
    e = weights.shape[-1]
    if not is_for_tpu():
        return jnp.repeat(weights, r, axis=-1)
    # A TPU would move lanes and write the result to memory; a selection is part of the next operation.
    expert = jax.lax.iota(jnp.int32, e * r) // r
    return functools.reduce(
        lambda kept, i: jnp.where(expert == i, weights[..., i : i + 1], kept), range(1, e), weights[..., :1]
    ) * jnp.ones(e * r, weights.dtype)


def _per_expert(x: Float[Array, "*rows n"], e: int) -> Float[Array, "*rows {e}"]:
    """Sums the features of each expert, as a product where that is faster."""
    r = x.shape[-1] // e
    if not is_for_tpu():
        return x.reshape(*x.shape[:-1], e, r).astype(jnp.float32).sum(-1).astype(x.dtype)
    return matmul_f32(x, jnp.repeat(jnp.eye(e, dtype=x.dtype), r, axis=0)).astype(x.dtype)


def use_grouped(tokens: int | Any, experts: int, top_k: int) -> bool:
    """Returns whether to compute only the selected experts.

    This pays off where it takes at most a quarter of the rows, because sorting costs as much again. On two
    CPU cores, forward and backward at ViT-B/16's width with 1,544 tokens and 2 selected experts, computing
    all and only the selected took 41 ms and 53 ms for 8 experts, 93 ms and 68 ms for 16, 179 ms and 83 ms for
    32.

    All experts are computed on a mesh, where tokens and experts are split over devices, and in an export with
    a symbolic number of tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    single_device = (mesh.empty or mesh.size == 1) and isinstance(tokens, int)
    return single_device and 4 * grouped.padded_rows(tokens, experts, top_k) <= tokens * experts


def low_rank_mixture(
    x: Float[Array, "b l d"],
    weights: Float[Array, "b l e"],
    a: Float[Array, "d e r"],
    b: Float[Array, "e r n"],
) -> Float[Array, "b l n"]:
    """Computes a mixture of low-rank experts, `sum_e w_e B_e A_e x`, all experts as two products."""
    d, e, r = a.shape
    hidden = save_product(dense(x, a.reshape(d, e * r))).reshape(*x.shape[:-1], e, r)
    hidden = hidden * weights.astype(x.dtype)[..., None]
    return dense(hidden.reshape(*x.shape[:-1], e * r), b.reshape(e * r, -1))
