"""The training objective: weighted losses over a whole batch, encoded at once or in microbatches."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp

from tpr_jax import losses
from tpr_jax.distributed.sharding import split_rows
from tpr_jax.errors import UserError
from tpr_jax.models.matmul import all_gather_weight
from tpr_jax.models.petl.moe import load_balance
from tpr_jax.utils.trees import merge

DISTILLATION = {f"distill_{name}": loss for name, loss in losses.DISTILLATION.items()}
ROWS = ("image", "text", "image_tokens", "text_tokens", "words")  # what `encode` returns for each example
LARGEST_SCALE = 100.0  # of a learned temperature, as in CLIP (arXiv 2103.00020, section 2.5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Logits:
    """How losses turn features into logits.

    Attributes:
      scale: the factor on cosine similarities of the losses with a softmax, 1 / temperature.
      slope: the factor of the loss 'sigmoid'.
      offset: what the loss 'sigmoid' adds to its logits.
      sizes: also compute the losses of the first numbers of the features, so many of them (Matryoshka
        representation learning, NeurIPS 2022).
    """

    scale: float | jax.Array
    slope: float = losses.SIGMOID_SLOPE
    offset: float = losses.SIGMOID_OFFSET
    sizes: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})


def objective(
    model: dict,
    weights: Mapping[str, float],
    scale: float | Logits,
    trainable: dict,
    frozen: dict,
    batch: dict,
) -> tuple[jax.Array, dict]:
    """Computes the total loss of a batch.

    Args:
      model: the functions of `models.clip.build`.
      weights: the weight of each loss, by its name.
      scale: the factor on cosine similarities, 1 / temperature, or all of `Logits`.
      trainable: the trainable collections.
      frozen: the frozen collections.
      batch: `image` [b, h, w, 3] (uint8, or normalized floats), `ids` [b, l] and `pid` [b], and for the loss
        'mlm' also `mlm_ids` and `mlm_labels` [b, l]. With c captions per image, ids and labels are [b, c, l],
        and the losses are those of b * c pairs, whose images are encoded once. With `patches` [b, kept] only
        these patches of the images are encoded.

    Returns:
      (total loss, metrics): the metrics are the losses by name, weighted, and the routing statistics.

    Raises:
      UserError: a loss is unknown, or lacks what it needs.
    """
    variables = merge(frozen, trainable)
    return compute_losses(weights, scale, variables, encode(model, weights, variables, batch), batch)


def encode(model: dict, weights: Mapping[str, float], variables: dict, batch: dict) -> dict:
    """Computes the features that the losses need, of all pairs.

    Returns:
      `image` and `text` [b, e], with c captions per image [b * c, e], and `routing` of each tower. For the
      loss 'filip' also `image_tokens` [b, n, e], `text_tokens` [b, m, e] and `words` [b, m], a float. For
      the loss 'mlm' also `mlm`, the sum over the masked words, and `mlm_words`, the number of these as a
      float.
    """
    # These losses read all tokens of the image; the first of them is the feature.
    all_tokens = not {"mlm", "filip"}.isdisjoint(weights)
    patches = batch.get("patches")
    images, image_routing = model["encode_image"](
        variables, batch["image"], all_tokens=all_tokens, patches=patches
    )
    ids = _of_pairs(batch["ids"])
    images = _for_each_pair(images, len(ids))
    text, text_routing = model["encode_text"](variables, ids, all_tokens="filip" in weights)
    features = {"image": images, "text": text, "routing": {"visual": image_routing, "text": text_routing}}
    if all_tokens:
        features["image"] = images[:, 0]
    if "filip" in weights:
        feature, words = model["select_words"](text, ids)
        features |= {"text": feature, "text_tokens": text, "words": words.astype(jnp.float32)}
        features["image_tokens"] = model["select_patches"](images, patches)
    if "mlm" not in weights:
        return features
    ids, labels = (_of_pairs(_needed(batch.get(key), "mlm", key)) for key in ("mlm_ids", "mlm_labels"))
    _needed("masked_words" in variables.get("head", {}), "mlm", "its head: heads.mlm_depth above 0")
    labels = model["place_labels"](ids, labels)
    mean = losses.masked_words(model["predict_words"](variables, images, ids), labels)
    words = (labels != 0).sum().astype(jnp.float32)
    return {**features, "mlm": mean * jnp.maximum(words, 1), "mlm_words": words}


def compute_losses(
    weights: Mapping[str, float], scale: float | Logits, variables: dict, features: dict, batch: dict
) -> tuple[jax.Array, dict]:
    """Computes (total loss, metrics) from what `encode` returns for a whole batch."""
    logits = scale if isinstance(scale, Logits) else Logits(scale)
    if (temperature := variables.get("head", {}).get("temperature")) is not None:
        factor = jnp.exp(all_gather_weight(temperature["log_scale"]))
        logits = dataclasses.replace(logits, scale=jnp.minimum(factor, LARGEST_SCALE))
    terms = {
        name: weight * _loss(name, logits, variables, features, batch) for name, weight in weights.items()
    }
    total = cast(jax.Array, sum(terms.values()))  # there is a loss
    routing = features["routing"]
    statistics = {**_routing_stats("visual", routing["visual"]), **_routing_stats("text", routing["text"])}
    return total, {"loss": total, **terms, **statistics}


def _loss(name: str, logits: Logits, variables: dict, features: dict, batch: dict) -> jax.Array:
    """Computes one loss, unweighted."""
    if name == "balance":
        routing = features["routing"]["visual"] + features["routing"]["text"]
        return losses.balance(_needed(routing, name, "a mixture of experts"))
    if name == "mlm":
        return features["mlm"] / jnp.maximum(features["mlm_words"], 1)
    if name == "filip":
        tokens = (features[key] for key in ("image_tokens", "text_tokens", "words"))
        return losses.filip(*tokens, scale=logits.scale)
    settings: dict[str, float | jax.Array] = {}
    if name in ("sdm", "itc", "distill_scores"):
        settings["scale"] = logits.scale
    if name == "sigmoid":
        settings = {"slope": logits.slope, "offset": logits.offset}
    if name == "id":
        head = _needed(variables.get("head", {}).get("classifier"), name, "a classifier among heads")
        settings = jax.tree.map(all_gather_weight, head)
    if name in DISTILLATION:
        what = "a teacher: config.distill.teacher"
        teacher = {key: _needed(batch.get(key), name, what) for key in ("teacher_image", "teacher_text")}
        pairs = len(features["text"])
        settings |= {key: _for_each_pair(_of_pairs(array), pairs) for key, array in teacher.items()}
    loss = _needed(
        losses.BY_NAME.get(name) or DISTILLATION.get(name),
        name,
        f"another name: choose from {', '.join((*losses.NAMES, *DISTILLATION))}",
    )
    # The features of a teacher were not trained to be cut.
    sizes = () if name == "distill_feats" else logits.sizes
    pids = _for_each_pair(batch["pid"], len(features["text"]))
    return _mean_over_sizes(loss, sizes, features, pids, settings)


def _mean_over_sizes(
    loss: Callable, sizes: Sequence[int], features: dict, pids: jax.Array, settings: Mapping
) -> jax.Array:
    """Computes the mean of a loss of the features and of the first numbers of them."""
    terms = []
    for size in (*sizes, None):
        cut = dict(settings)
        if "kernel" in cut:
            cut["kernel"] = cut["kernel"][:size]
        terms.append(loss(features["image"][:, :size], features["text"][:, :size], pids, **cut))
    return sum(terms[1:], terms[0]) / len(terms)


def grad_cached_loss_and_grad(
    model: dict,
    weights: Mapping[str, float],
    scale: float | Logits,
    trainable: dict,
    frozen: dict,
    microbatches: dict,
) -> tuple[tuple[jax.Array, dict], dict]:
    """Computes ((total loss, metrics), gradient) of a batch that is encoded one microbatch at a time.

    The result is that of the whole batch. The towers see each microbatch twice: once without a gradient, for
    the features, which are all that the losses need; and once to backpropagate the gradient of these features
    (GradCache: Gao et al., RepL4NLP 2021).

    Args:
      model: the functions of `models.clip.build`.
      weights: the weight of each loss.
      scale: the factor on cosine similarities, or all of `Logits`.
      trainable: the trainable collections.
      frozen: the frozen collections.
      microbatches: the arrays of a batch, [n, b / n, ...].
    """

    def encode_microbatch(trainable, rows):
        rows = {key: array.reshape(microbatches[key].shape[1:]) for key, array in rows.items()}
        return encode(model, weights, merge(frozen, trainable), rows)

    def loss_of_features(trainable, features):
        variables = merge(frozen, trainable)
        return compute_losses(weights, scale, variables, _concatenate(features), batch)

    batch = jax.tree.map(lambda rows: split_rows(rows.reshape(-1, *rows.shape[2:])), microbatches)
    # Rows are flat while they wait: a TPU would pad the three colors of each pixel to 128.
    flat = {key: rows.reshape(*rows.shape[:2], -1) for key, rows in microbatches.items()}
    features = jax.lax.map(lambda rows: encode_microbatch(trainable, rows), flat)
    loss_and_grads = jax.value_and_grad(loss_of_features, argnums=(0, 1), has_aux=True)
    # `direct` is the gradient that bypasses the towers, such as that of the heads.
    loss_and_metrics, (direct, feature_grads) = loss_and_grads(trainable, features)

    def accumulate(grads, rows_and_feature_grads):
        rows, feature_grads = rows_and_feature_grads
        _, vjp_fn = jax.vjp(lambda trainable: encode_microbatch(trainable, rows), trainable)
        return jax.tree.map(jnp.add, grads, vjp_fn(feature_grads)[0]), None

    return loss_and_metrics, jax.lax.scan(accumulate, direct, (flat, feature_grads))[0]


def _concatenate(features: dict) -> dict:
    """Concatenates the outputs of `encode` for all microbatches, arrays [n, ...], into those of the batch."""
    # Sharded again: this reshape keeps no sharding, and replicated features give replicated logits.
    rows = {key: features[key] for key in ROWS if key in features}
    joined = {key: split_rows(array.reshape(-1, *array.shape[2:])) for key, array in rows.items()}
    routing = jax.tree.map(lambda x: x.mean(0), features["routing"])
    for block in (*routing["visual"], *routing["text"]):
        block["balance"] = load_balance(block["probability"], block["chosen"])
    sums = {key: features[key].sum() for key in ("mlm", "mlm_words") if key in features}
    return {**joined, **sums, "routing": routing}


def _of_pairs(rows: jax.Array) -> jax.Array:
    """Joins the captions of all images: [b, c, n] to [b * c, n]; [b, n] stays as it is."""
    return rows.reshape(-1, rows.shape[-1])


def _for_each_pair(rows: jax.Array, pairs: int) -> jax.Array:
    """Repeats each row as often as its image has captions, if there are fewer rows than pairs."""
    return rows if len(rows) == pairs else split_rows(jnp.repeat(rows, pairs // len(rows), axis=0))


def _needed(value, loss: str, what: str):
    """Returns the value; raises a UserError if it is missing."""
    if value is None or value is False or (isinstance(value, list) and not value):
        raise UserError(f"loss '{loss}' needs {what}")
    return value


def _routing_stats(tower: str, blocks: list[dict]) -> dict:
    """Computes means over the mixtures of a tower: each expert's share of tokens, the balance term, alpha.

    Statistics of different shapes, as of mixtures with different numbers of experts, are left out.
    """
    stats = {}
    for name in ("balance", "load", "alpha"):
        values = [block[name] for block in blocks if name in block]
        if values and len({value.shape for value in values}) == 1:
            stats[f"routing/{tower}/{name}"] = sum(values) / len(values)
    return stats
