"""The train step and the two encoders: pure functions, jitted with their shardings.

A training state is a plain dict: `trainable` (collections), `opt` (optimiser state), `step` (int32, updates
done) and `bad_step` (int32, -1, or the step whose loss or gradient was not finite: from there on nothing is
updated any more, so the state stays the last good one).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpr_jax import losses, sharding
from tpr_jax.errors import UserError
from tpr_jax.models.products import whole
from tpr_jax.trees import merge


def objective(
    model: dict, weights: dict[str, float], scale: float, trainable: dict, frozen: dict, batch: dict
):
    """(total loss, metrics): the weighted losses by name, over the whole batch, and the routing statistics.

    `model` is from `models.clip.build`; `weights` maps a loss's name to its weight; a batch holds `image`
    [b, h, w, 3] (uint8, or normalised floats), `ids` [b, l] and `pid` [b], and for the loss 'mlm' `mlm_ids`
    and `mlm_labels` [b, l].

    Raises:
      UserError: a loss is unknown, or lacks what it needs.
    """
    variables = merge(frozen, trainable)
    # Masked language modelling reads all tokens of the image, of which the feature is the first.
    images, image_routing = model["encode_image"](variables, batch["image"], all_tokens="mlm" in weights)
    image_feats = images[:, 0] if "mlm" in weights else images
    text_feats, text_routing = model["encode_text"](variables, batch["ids"])

    def term(name):
        if name == "balance":
            return losses.balance(_needed(image_routing + text_routing, name, "a mixture of experts"))
        if name == "mlm":
            ids, labels = (_needed(batch.get(key), name, key) for key in ("mlm_ids", "mlm_labels"))
            _needed("masked_words" in variables.get("head", {}), name, "its head: heads.mlm_depth above 0")
            return losses.masked_words(model["predict_words"](variables, images, ids), labels)
        settings = {"scale": scale} if name in ("sdm", "itc") else {}
        if name == "id":
            head = _needed(variables.get("head", {}).get("classifier"), name, "a classifier among heads")
            settings = jax.tree.map(whole, head)
        known = _needed(losses.BY_NAME.get(name), name, f"another name: known are {', '.join(losses.NAMES)}")
        return known(image_feats, text_feats, batch["pid"], **settings)

    terms = {name: weight * term(name) for name, weight in weights.items()}
    total = sum(terms.values())
    routing = {**_routing("visual", image_routing), **_routing("text", text_routing)}
    return total, {"loss": total, **terms, **routing}


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


def init_state(optimiser: optax.GradientTransformation, trainable: dict) -> dict:
    """The state before the first step."""
    return {
        "trainable": trainable,
        "opt": optimiser.init(trainable),
        "step": jnp.zeros((), jnp.int32),
        "bad_step": -jnp.ones((), jnp.int32),
    }


def train_step(
    model: dict, optimiser, weights: dict[str, float], scale: float, state: dict, frozen: dict, batch: dict
) -> tuple[dict, dict]:
    """One update of the trainable collections; returns (state, metrics)."""
    differentiate = jax.value_and_grad(
        lambda trainable: objective(model, weights, scale, trainable, frozen, batch), has_aux=True
    )
    (_, metrics), gradient = differentiate(state["trainable"])
    metrics["grad_norm"] = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    updates, opt = optimiser.update(gradient, state["opt"], state["trainable"])
    updated = {"trainable": optax.apply_updates(state["trainable"], updates), "opt": opt}
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    good = finite & (state["bad_step"] < 0)
    kept = {name: state[name] for name in updated}
    new = jax.tree.map(lambda a, b: jnp.where(good, a, b), updated, kept)
    new["step"] = state["step"] + good
    new["bad_step"] = jnp.where((state["bad_step"] < 0) & ~finite, state["step"], state["bad_step"])
    return new, {**metrics, "bad_step": new["bad_step"]}


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options of `jax.jit` for the devices here.

    XLA's fusions through YNNPACK on the CPU: without them the step of clip-mini took 0.73 s instead of 0.86
    (batch 64, two cores, jaxlib 0.10.2), and a quarter when another process wanted the cores too.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(jnp.negative).lower(1.0).compile(compiler_options=options)
    except Exception:  # another version of XLA that has no such option
        return {}
    return options


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """The function as it is traced for a mesh, where split weights come together (`products.whole`)."""
    if mesh.size == 1:
        return function

    @functools.wraps(function)
    def traced(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def jit_train_step(model: dict, optimiser, weights: dict, scale: float, mesh: Mesh) -> Callable:
    """`(state, frozen, batch) -> (state, metrics)`, of what `sharding.place` and `sharding.by_row` laid out;
    the state's memory is given to the new state."""

    def step(state, frozen, batch):
        new, metrics = train_step(model, optimiser, weights, scale, state, frozen, batch)
        # Else the compiler would choose, and the next step be compiled anew for its choice.
        new = jax.lax.with_sharding_constraint(new, sharding.leaf_shardings(mesh, new))
        return new, jax.lax.with_sharding_constraint(metrics, NamedSharding(mesh, PartitionSpec()))

    return jax.jit(on_mesh(step, mesh), donate_argnums=0, compiler_options=compiler_options())


def jit_encoders(model: dict, mesh: Mesh) -> tuple[Callable, Callable]:
    """`(variables, images or ids) -> features float32 [b, e]`, unnormalised, for both towers.

    Every process gives all rows, and gets all features.
    """

    def jitted(encode):
        run = jax.jit(
            on_mesh(lambda variables, rows: encode(variables, rows)[0], mesh),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
            compiler_options=compiler_options(),
        )
        return lambda variables, rows: run(variables, sharding.by_row(mesh, rows))

    return jitted(model["encode_image"]), jitted(model["encode_text"])
