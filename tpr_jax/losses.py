"""Losses: pure functions of the unnormalized features of a batch and its identities, in float32.

All take `(image_feats [b, e], text_feats [b, e], pids [b])` first and their settings by keyword, and return a
scalar. Row i of both features is a matching pair; a loss says whether other rows of the same pid match too.
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

SIGMOID_SLOPE, SIGMOID_OFFSET = 10.0, -10.0  # the paper's initial values
LOGIT_SCALE = 50.0  # 1 / 0.02, fixed in the reference of all three methods


def l2_normalize(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """Scales rows to unit length, in float32; a row whose squares are all 0 is unchanged."""
    x = x.astype(jnp.float32)
    zero = jnp.sum(x * x, axis=-1, keepdims=True) == 0
    # Replaced inside the norm: its derivative at 0 is NaN, which stays NaN when it is multiplied by 0.
    return x / jnp.linalg.norm(jnp.where(zero, 1, x), axis=-1, keepdims=True)


def _matmul_transposed(a: Float[Array, "m e"], b: Float[Array, "n e"]) -> Float[Array, "m n"]:
    """Computes `a @ b.T` in full float32, on GPU and TPU too: temperatures magnify rounding errors."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def _logits(
    rows: Float[Array, "m e"], columns: Float[Array, "n e"], scale: float | Scalar
) -> Float[Array, "m n"]:
    """Computes the scaled cosines of all rows and all columns."""
    return _matmul_transposed(scale * l2_normalize(rows), l2_normalize(columns))


def same_identity(pids: Pids) -> Float[Array, "b b"]:
    """Returns a matrix with 1 where the identities of row and column agree, else 0."""
    return (pids[:, None] == pids[None, :]).astype(jnp.float32)


def _kl_divergence(logits: Float[Array, "m n"], target: Float[Array, "m n"]) -> Scalar:
    """Computes `mean_i sum_j p_ij (log p_ij - log(target_ij + 1e-8))` with p the softmax of each row."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - jnp.log(target + 1e-8)), axis=-1))


def _checked(loss: Callable) -> Callable:
    """Adds checks of a loss's arrays, with one-line errors; they run only while tracing."""

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
def sdm(image_feats: Feats, text_feats: Feats, pids: Pids, *, scale: float | Scalar = LOGIT_SCALE) -> Scalar:
    """Computes similarity distribution matching (IRRA, CVPR 2023, eq. 5-7), both directions added."""
    logits = _logits(text_feats, image_feats, scale)
    same = same_identity(pids)
    target = same / same.sum(-1, keepdims=True)
    return _kl_divergence(logits, target) + _kl_divergence(logits.T, target)


@_checked
def itc(image_feats: Feats, text_feats: Feats, pids: Pids, *, scale: float | Scalar = LOGIT_SCALE) -> Scalar:
    """Computes the contrastive loss of CLIP: the mean of both cross-entropies; only the diagonal matches."""
    logits = _logits(image_feats, text_feats, scale)
    by_image, by_text = (jnp.diagonal(jax.nn.log_softmax(x, axis=-1)) for x in (logits, logits.T))
    return -(by_image.mean() + by_text.mean()) / 2


@_checked
def cmpm(image_feats: Feats, text_feats: Feats, pids: Pids) -> Scalar:
    """Computes cross-modal projection matching (Zhang and Lu, ECCV 2018), both directions added."""
    same = same_identity(pids)
    target = same / jnp.linalg.norm(same, axis=-1, keepdims=True)
    by_image = _matmul_transposed(image_feats, l2_normalize(text_feats))
    by_text = _matmul_transposed(text_feats, l2_normalize(image_feats))
    return _kl_divergence(by_image, target) + _kl_divergence(by_text, target)


@_checked
def identity(
    image_feats: Feats,
    text_feats: Feats,
    pids: Pids,
    *,
    kernel: Float[Array, "e n"],
    bias: Float[Array, " n"],
) -> Scalar:
    """Computes the ID loss: the mean cross-entropy of one linear classifier on both features."""

    def cross_entropy(feats):
        log_p = jax.nn.log_softmax(_matmul_transposed(feats.astype(jnp.float32), kernel.T) + bias, axis=-1)
        return -jnp.take_along_axis(log_p, pids[:, None], axis=-1).mean()

    return (cross_entropy(image_feats) + cross_entropy(text_feats)) / 2


@_checked
def triplet(image_feats: Feats, text_feats: Feats, pids: Pids, *, margin: float = 1.0) -> Scalar:
    """Computes the triplet loss on Euclidean distances, with the hardest negative in both directions.

    Every other row is a negative, even one of the same identity, as in the reference.
    """
    own = 1e9 * jnp.eye(len(pids))
    squared = (
        jnp.square(image_feats).sum(-1)[:, None]
        + jnp.square(text_feats).sum(-1)[None]
        - _matmul_transposed(2 * image_feats, text_feats)
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
    """Computes the triplet alignment loss (RDE, CVPR 2024), both directions, summed over the batch.

    It is `relu(m - S+_i + tau * log sum_{j negative} exp(S_ij / tau))`, with S+_i the softmax-weighted mean
    of the positives; no gradient flows through these weights.
    """
    same = same_identity(pids)

    def one_way(cosine):
        weights = jax.nn.softmax(jnp.where(same > 0, cosine / tau, -jnp.inf), axis=-1)
        positive = jnp.sum(jax.lax.stop_gradient(weights) * cosine, axis=-1)
        negative = tau * jax.nn.logsumexp(cosine / tau, axis=-1, b=1 - same)
        return jax.nn.relu(margin - positive + negative).sum()

    cosine = _matmul_transposed(l2_normalize(image_feats), l2_normalize(text_feats))
    return one_way(cosine) + one_way(cosine.T)


@_checked
def sigmoid(
    image_feats: Feats,
    text_feats: Feats,
    pids: Pids,
    *,
    slope: float | Scalar = SIGMOID_SLOPE,
    offset: float | Scalar = SIGMOID_OFFSET,
) -> Scalar:
    """Computes the pairwise sigmoid loss (SigLIP, ICCV 2023, algorithm 1), summed over pairs, divided by b.

    `slope` and `offset` are not trained; their defaults are the paper's initial values. All pairs of one
    identity match, not only the diagonal, since several captions describe one person.
    """
    logits = _logits(image_feats, text_feats, slope) + offset
    sign = 2 * same_identity(pids) - 1
    return -jax.nn.log_sigmoid(sign * logits).sum() / len(pids)


def filip(
    image_tokens: Float[Array, "b n e"],
    text_tokens: Float[Array, "b m e"],
    words: Float[Array, "b m"],
    *,
    scale: float | Scalar = LOGIT_SCALE,
) -> Scalar:
    """Computes the loss of late interaction (FILIP, ICLR 2022, section 3.1); only the diagonal matches.

    The similarity of an image to a text is the mean over its patches of the largest cosine with a word; that
    of a text to an image is the mean over its words of the largest cosine with a patch. The loss is the mean
    of the cross-entropies of both.

    Args:
      image_tokens: the features of the patches.
      text_tokens: the features of the text's tokens.
      words: 1 where a token is a word, else 0.
      scale: the factor on similarities, 1 / temperature.
    """
    size = image_tokens.shape[-1]
    images, texts = (
        l2_normalize(tokens.reshape(-1, size)).reshape(tokens.shape) for tokens in (image_tokens, text_tokens)
    )
    cosine = jnp.einsum("ine,jme->ijnm", images, texts, precision=jax.lax.Precision.HIGHEST)
    by_image = jnp.where(words[:, None] > 0, cosine, -1.0).max(3).mean(2)
    by_text = (cosine.max(2) * words).sum(2) / jnp.maximum(words.sum(1), 1)
    own = (jnp.diagonal(jax.nn.log_softmax(scale * logits, axis=-1)) for logits in (by_image, by_text.T))
    return -sum(log_p.mean() for log_p in own) / 2


def masked_words(logits: Float[Array, "b l v"], labels: Int[Array, "b l"]) -> Scalar:
    """Computes masked language modeling (IRRA, CVPR 2023): the mean cross-entropy where a label is not 0."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    own = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    masked = labels != 0
    return -jnp.where(masked, own, 0.0).sum() / jnp.maximum(masked.sum(), 1)


def balance(routing: list[dict]) -> Scalar:
    """Sums the load-balance terms of all blocks (DM-Adapter); each is k / E when balanced."""
    return sum((block["balance"] for block in routing if block), jnp.zeros(()))


@_checked
def distill_feats(
    image_feats: Feats, text_feats: Feats, pids: Pids, *, teacher_image: Feats, teacher_text: Feats
) -> Scalar:
    """Computes the mean cosine distance of the features to the teacher's, in both towers, added."""

    def distance(ours, theirs):
        return 1 - jnp.sum(l2_normalize(ours) * l2_normalize(theirs), axis=-1).mean()

    return distance(image_feats, teacher_image) + distance(text_feats, teacher_text)


@_checked
def distill_scores(
    image_feats: Feats,
    text_feats: Feats,
    pids: Pids,
    *,
    teacher_image: Float[Array, "b t"],
    teacher_text: Float[Array, "b t"],
    scale: float | Scalar = LOGIT_SCALE,
) -> Scalar:
    """Computes contrastive relational distillation (CLIP-KD, CVPR 2024), both directions added.

    It is the divergence KL(teacher | student) of the softmax over the batch of the scaled cosines.
    """
    theirs, ours = _logits(teacher_text, teacher_image, scale), _logits(text_feats, image_feats, scale)

    def divergence(target, logits):
        log_target, log_p = (jax.nn.log_softmax(x, axis=-1) for x in (target, logits))
        return jnp.sum(jnp.exp(log_target) * (log_target - log_p), axis=-1).mean()

    return divergence(theirs, ours) + divergence(theirs.T, ours.T)


# The losses of features and identities by their names in a config; 'id' also needs a classifier.
BY_NAME = {
    "sdm": sdm,
    "itc": itc,
    "cmpm": cmpm,
    "id": identity,
    "triplet": triplet,
    "tal": tal,
    "sigmoid": sigmoid,
}
NAMES = (*BY_NAME, "filip", "mlm", "balance")
# The losses that compare with the features of a teacher, by their names in the section `distill`.
DISTILLATION = {"feats": distill_feats, "scores": distill_scores}
