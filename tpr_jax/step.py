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

from tpr_jax import losses


def objective(
    model: dict, weights: dict[str, float], scale: float, trainable: dict, frozen: dict, batch: dict
):
    """(total loss, metrics): the weighted losses by name, over the whole batch, and the routing statistics.

    `model` is from `models.clip.build`; `weights` maps a loss's name to its weight; a batch holds `image`
    [b, h, w, 3] (uint8, or normalised floats), `ids` [b, l] and `pid` [b].
    """
    variables = {**frozen, **trainable}
    image_feats, image_routing = model["encode_image"](variables, batch["image"])
    text_feats, text_routing = model["encode_text"](variables, batch["ids"])
    terms = {}
    for name, weight in weights.items():
        if name == "balance":
            terms[name] = weight * losses.balance(image_routing + text_routing)
        else:
            settings = {"scale": scale} if name in ("sdm", "itc") else {}
            terms[name] = weight * losses.BY_NAME[name](image_feats, text_feats, batch["pid"], **settings)
    total = sum(terms.values())
    routing = {**_routing("visual", image_routing), **_routing("text", text_routing)}
    return total, {"loss": total, **terms, **routing}


def _routing(tower: str, blocks: list[dict]) -> dict:
    """Means over a tower's blocks: each expert's share of the tokens, the balance term, alpha."""
    blocks = [block for block in blocks if block]
    if not blocks:
        return {}
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *blocks)
    return {f"routing/{tower}/{name}": value for name, value in mean.items()}


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


def jit_train_step(model: dict, optimiser, weights: dict, scale: float, mesh: Mesh) -> Callable:
    """`(state, frozen, batch) -> (state, metrics)`: the batch split over `data`, all else on every device;
    the state's memory is given to the new state."""
    everywhere, by_row = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def step(state, frozen, batch):
        return train_step(model, optimiser, weights, scale, state, frozen, batch)

    return jax.jit(
        step,
        in_shardings=(everywhere, everywhere, by_row),
        out_shardings=everywhere,
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def jit_encoders(model: dict, mesh: Mesh) -> tuple[Callable, Callable]:
    """`(variables, images or ids) -> features float32 [b, e]`, unnormalised, for both towers."""
    everywhere, by_row = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def jitted(encode):
        return jax.jit(
            lambda variables, rows: encode(variables, rows)[0],
            in_shardings=(everywhere, by_row),
            out_shardings=everywhere,
            compiler_options=compiler_options(),
        )

    return jitted(model["encode_image"]), jitted(model["encode_text"])
