"""What is minimized: the weighted losses over a whole batch, which may go through the towers in parts."""

import jax
import jax.numpy as jnp

from tpr_jax import losses
from tpr_jax.distributed.sharding import split_rows
from tpr_jax.errors import UserError
from tpr_jax.models.matmul import all_gather_weight
from tpr_jax.models.petl.moe import load_balance
from tpr_jax.utils.trees import merge


def objective(
    model: dict, weights: dict[str, float], scale: float, trainable: dict, frozen: dict, batch: dict
):
    """(total loss, metrics): the weighted losses by name, over the whole batch, and the routing statistics.

    `model` is from `models.clip.build`; `weights` maps a loss's name to its weight; a batch holds `image`
    [b, h, w, 3] (uint8, or normalized floats), `ids` [b, l] and `pid` [b], and for the loss 'mlm' `mlm_ids`
    and `mlm_labels` [b, l].

    Raises:
      UserError: a loss is unknown, or lacks what it needs.
    """
    variables = merge(frozen, trainable)
    return compute_losses(weights, scale, variables, encode(model, weights, variables, batch), batch)


def encode(model: dict, weights: dict[str, float], variables: dict, batch: dict) -> dict:
    """What the losses need of a batch: `image` and `text` [b, e], `routing` of each tower, and for the loss
    'mlm' the sum over its masked words, `mlm`, and how many those are, `mlm_words` (a float)."""
    # Masked language modeling reads all tokens of the image, of which the feature is the first.
    images, image_routing = model["encode_image"](variables, batch["image"], all_tokens="mlm" in weights)
    text, text_routing = model["encode_text"](variables, batch["ids"])
    found = {"image": images, "text": text, "routing": {"visual": image_routing, "text": text_routing}}
    if "mlm" not in weights:
        return found
    ids, labels = (_needed(batch.get(key), "mlm", key) for key in ("mlm_ids", "mlm_labels"))
    _needed("masked_words" in variables.get("head", {}), "mlm", "its head: heads.mlm_depth above 0")
    labels = model["place_labels"](ids, labels)
    mean = losses.masked_words(model["predict_words"](variables, images, ids), labels)
    words = (labels != 0).sum().astype(jnp.float32)
    return {**found, "image": images[:, 0], "mlm": mean * jnp.maximum(words, 1), "mlm_words": words}


def compute_losses(weights: dict[str, float], scale: float, variables: dict, found: dict, batch: dict):
    """(total loss, metrics) of what `encode` found of a whole batch."""
    routing = found["routing"]

    def term(name):
        if name == "balance":
            return losses.balance(_needed(routing["visual"] + routing["text"], name, "a mixture of experts"))
        if name == "mlm":
            return found["mlm"] / jnp.maximum(found["mlm_words"], 1)
        settings = {"scale": scale} if name in ("sdm", "itc") else {}
        if name == "id":
            head = _needed(variables.get("head", {}).get("classifier"), name, "a classifier among heads")
            settings = jax.tree.map(all_gather_weight, head)
        known = _needed(losses.BY_NAME.get(name), name, f"another name: known are {', '.join(losses.NAMES)}")
        return known(found["image"], found["text"], batch["pid"], **settings)

    terms = {name: weight * term(name) for name, weight in weights.items()}
    total = sum(terms.values())
    statistics = {**_routing("visual", routing["visual"]), **_routing("text", routing["text"])}
    return total, {"loss": total, **terms, **statistics}


def grad_cached_loss_and_grad(
    model: dict, weights: dict[str, float], scale: float, trainable: dict, frozen: dict, parts: dict
):
    """((total loss, metrics), gradient) of a batch whose arrays are [n, b / n, ...], as of the whole batch.

    The towers see one part at a time, twice: without a gradient for the features, which are all that the
    losses need, then with the gradient of those (Gao et al., RepL4NLP 2021).
    """

    def encode_part(trainable, part):
        part = {key: rows.reshape(parts[key].shape[1:]) for key, rows in part.items()}
        return encode(model, weights, merge(frozen, trainable), part)

    def close(trainable, found):
        return compute_losses(weights, scale, merge(frozen, trainable), _joined(found), whole_batch)

    whole_batch = jax.tree.map(lambda rows: split_rows(rows.reshape(-1, *rows.shape[2:])), parts)
    # A row is one axis while it waits: a TPU would give each pixel's three colors the room of 128.
    flat = {key: rows.reshape(*rows.shape[:2], -1) for key, rows in parts.items()}
    found = jax.lax.map(lambda part: encode_part(trainable, part), flat)
    differentiate = jax.value_and_grad(close, argnums=(0, 1), has_aux=True)
    loss_and_metrics, (direct, of_found) = differentiate(trainable, found)

    def add(gradient, part_and_slope):
        part, slope = part_and_slope
        _, pull = jax.vjp(lambda trainable: encode_part(trainable, part), trainable)
        return jax.tree.map(jnp.add, gradient, pull(slope)[0]), None

    return loss_and_metrics, jax.lax.scan(add, direct, (flat, of_found))[0]


def _joined(found: dict) -> dict:
    """What `encode` finds of a whole batch, from what it found of each part: arrays [n, ...]."""
    # Split anew: no way of splitting goes through this reshape, and unsplit features make unsplit logits.
    joined = {key: split_rows(found[key].reshape(-1, found[key].shape[-1])) for key in ("image", "text")}
    routing = jax.tree.map(lambda x: x.mean(0), found["routing"])
    for block in (*routing["visual"], *routing["text"]):
        block["balance"] = load_balance(block["probability"], block["chosen"])
    sums = {key: found[key].sum() for key in ("mlm", "mlm_words") if key in found}
    return {**joined, **sums, "routing": routing}


def _needed(value, loss: str, what: str):
    """The value, unless it is missing."""
    if value is None or value is False or (isinstance(value, list) and not value):
        raise UserError(f"loss '{loss}' needs {what}")
    return value


def _routing(tower: str, blocks: list[dict]) -> dict:
    """Means over a tower's mixtures: each expert's share of the tokens, the balance term, alpha.

    The shares are left out where the mixtures differ in their number of experts.
    """
    found = {}
    for name in ("balance", "load", "alpha"):
        values = [block[name] for block in blocks if name in block]
        if values and len({value.shape for value in values}) == 1:
            found[f"routing/{tower}/{name}"] = sum(values) / len(values)
    return found
