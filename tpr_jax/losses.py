"""The losses, each a pure function of the unnormalized features of a batch and its identities, in float32.

All take `(image_feats [b, e], text_feats [b, e], pids [b])` first and their settings by keyword, and return a
scalar. Row i of both features is one matching pair; rows with equal pid match too where a loss says so.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tpr_jax.errors import ArgumentError

Feats = Float[Array, "b e"]
Pids = Int[Array, " b"]
Scalar = Float[Array, ""]

LOGIT_SCALE = 50.0  # 1 / 0.02, fixed in all three methods


def l2_normalize(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """Rows of unit length, float32; a row of zeros (or with squares below float32) is left as it is."""
    x = x.astype(jnp.float32)
    zero = jnp.sum(x * x, axis=-1, keepdims=True) == 0
    # Replaced within the norm, not after it: its derivative at 0 is no number, and times 0 it stays none.
    return x / jnp.linalg.norm(jnp.where(zero, 1, x), axis=-1, keepdims=True)


def _products(a: Float[Array, "m e"], b: Float[Array, "n e"]) -> Float[Array, "m n"]:
    """`a @ b^T` in full float32, on GPU and TPU too: temperatures magnify what rounding leaves."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def same_identity(pids: Pids) -> Float[Array, "b b"]:
    """1 where the identities of row and column agree."""
    return (pids[:, None] == pids[None, :]).astype(jnp.float32)


def _divergence(logits, target):
    """`mean_i sum_j p_ij (log p_ij - log(target_ij + 1e-8))` with p the softmax of the rows."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - jnp.log(target + 1e-8)), axis=-1))


def _checked(loss: Callable) -> Callable:
    """The loss, which says in one line what is wrong with its arrays; traced, this costs nothing."""

    @functools.wraps(loss)
    def call(image_feats, text_feats, pids, **settings):
        shapes = []
        for name, feats in (("image_feats", image_feats), ("text_feats", text_feats)):
            shapes.append(_shape(name, feats))
            if len(shapes[-1]) != 2:
                raise ArgumentError(f"{name} of shape {shapes[-1]}, expected [b, e]")
            if not jnp.issubdtype(feats.dtype, jnp.floating):
                raise ArgumentError(f"{name} are {feats.dtype}, expected floats")
        if shapes[0] != shapes[1]:
            raise ArgumentError(
                f"image_feats of shape {shapes[0]} and text_feats of shape {shapes[1]}, expected the same"
            )
        if (shape := _shape("pids", pids)) != shapes[0][:1]:
            raise ArgumentError(f"pids of shape {shape}, expected [{shapes[0][0]}]")
        if not jnp.issubdtype(pids.dtype, jnp.integer):
            raise ArgumentError(f"pids are {pids.dtype}, expected whole numbers")
        return loss(image_feats, text_feats, pids, **settings)

    return call


def _shape(name: str, array) -> tuple[int, ...]:
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise ArgumentError(f"{name} must be an array of JAX or NumPy, not {type(array).__name__}")
    return tuple(array.shape)


@_checked
def sdm(image_feats: Feats, text_feats: Feats, pids: Pids, *, scale: float = LOGIT_SCALE) -> Scalar:
    """Similarity distribution matching (IRRA, CVPR 2023, eq. 5-7), both directions added."""
    logits = _products(scale * l2_normalize(text_feats), l2_normalize(image_feats))
    same = same_identity(pids)
    target = same / same.sum(-1, keepdims=True)
    return _divergence(logits, target) + _divergence(logits.T, target)


@_checked
def itc(image_feats: Feats, text_feats: Feats, pids: Pids, *, scale: float = LOGIT_SCALE) -> Scalar:
    """Image-text contrast (CLIP): the mean of both cross-entropies; only the own pair counts as right."""
    logits = _products(scale * l2_normalize(image_feats), l2_normalize(text_feats))
    by_image, by_text = (jnp.diagonal(jax.nn.log_softmax(x, axis=-1)) for x in (logits, logits.T))
    return -(by_image.mean() + by_text.mean()) / 2


@_checked
def cmpm(image_feats: Feats, text_feats: Feats, pids: Pids) -> Scalar:
    """Cross-modal projection matching (Zhang and Lu, ECCV 2018), both directions added."""
    same = same_identity(pids)
    target = same / jnp.linalg.norm(same, axis=-1, keepdims=True)
    by_image = _products(image_feats, l2_normalize(text_feats))
    by_text = _products(text_feats, l2_normalize(image_feats))
    return _divergence(by_image, target) + _divergence(by_text, target)


@_checked
def identity(
    image_feats: Feats,
    text_feats: Feats,
    pids: Pids,
    *,
    kernel: Float[Array, "e n"],
    bias: Float[Array, " n"],
) -> Scalar:
    """ID loss: the mean of the cross-entropies of one linear classifier on both features."""

    def cross_entropy(feats):
        log_p = jax.nn.log_softmax(_products(feats.astype(jnp.float32), kernel.T) + bias, axis=-1)
        return -jnp.take_along_axis(log_p, pids[:, None], axis=-1).mean()

    return (cross_entropy(image_feats) + cross_entropy(text_feats)) / 2


@_checked
def triplet(image_feats: Feats, text_feats: Feats, pids: Pids, *, margin: float = 1.0) -> Scalar:
    """Hinge on the Euclidean distances of unnormalized features, hardest negative both ways, mean.

    As in the reference, every other row is a negative, one of the same identity too.
    """
    own = 1e9 * jnp.eye(len(pids))
    squared = (
        jnp.square(image_feats).sum(-1)[:, None]
        + jnp.square(text_feats).sum(-1)[None]
        - _products(2 * image_feats, text_feats)
    )
    distance = jnp.sqrt(jnp.maximum(squared, 1e-12))
    positive = jnp.diagonal(distance)
    by_image = jax.nn.relu(margin + positive - (distance + own).min(1))
    by_text = jax.nn.relu(margin + positive - (distance + own).min(0))
    return by_image.mean() + by_text.mean()


@_checked
def tal(
    image_feats: Feats, text_feats: Feats, pids: Pids, *, margin: float = 0.1, tau: float = 0.015
) -> Scalar:
    """Triplet alignment loss (RDE, CVPR 2024), both ways, summed over the batch.

    `relu(m - S+_i + tau * log sum_{j negative} exp(S_ij / tau))`, S+_i the softmax-weighted mean of the
    positives; no gradient flows through those weights.
    """
    same = same_identity(pids)

    def one_way(cosine):
        weights = jax.nn.softmax(jnp.where(same > 0, cosine / tau, -jnp.inf), axis=-1)
        positive = jnp.sum(jax.lax.stop_gradient(weights) * cosine, axis=-1)
        negative = tau * jax.nn.logsumexp(cosine / tau, axis=-1, b=1 - same)
        return jax.nn.relu(margin - positive + negative).sum()

    cosine = _products(l2_normalize(image_feats), l2_normalize(text_feats))
    return one_way(cosine) + one_way(cosine.T)


@_checked
def sigmoid(
    image_feats: Feats, text_feats: Feats, pids: Pids, *, slope: float = 10.0, offset: float = -10.0
) -> Scalar:
    """Pairwise sigmoid loss (SigLIP, ICCV 2023, algorithm 1), summed over pairs and divided by b.

    `slope` and `offset` stay at the paper's first values. All pairs of one identity are right, not only the
    diagonal: here several captions describe one person.
    """
    logits = _products(slope * l2_normalize(image_feats), l2_normalize(text_feats)) + offset
    sign = 2 * same_identity(pids) - 1
    return -jax.nn.log_sigmoid(sign * logits).sum() / len(pids)


def masked_words(logits: Float[Array, "b l v"], labels: Int[Array, "b l"]) -> Scalar:
    """Masked language modeling (IRRA, CVPR 2023): mean cross-entropy where a label is not 0."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    own = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    masked = labels != 0
    return -jnp.where(masked, own, 0.0).sum() / jnp.maximum(masked.sum(), 1)


def balance(routing: list[dict]) -> Scalar:
    """The load-balance terms of all blocks added up (DM-Adapter); each is k / E when balanced."""
    return sum((block["balance"] for block in routing if block), jnp.zeros(()))


# The losses of features and identities, by the name a config uses; 'id' needs a classifier besides.
BY_NAME = {
    "sdm": sdm,
    "itc": itc,
    "cmpm": cmpm,
    "id": identity,
    "triplet": triplet,
    "tal": tal,
    "sigmoid": sigmoid,
}
NAMES = (*BY_NAME, "mlm", "balance")
