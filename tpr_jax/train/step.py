"""The train step and the two encoders: pure functions, jitted with their shardings.

A training state is a plain dict: `trainable` (collections), `opt` (optimizer state), `step` (int32, updates
done) and `bad_step` (int32, -1, or the step whose loss, gradient or update was not finite: from there on
nothing is updated any more, so the state stays the last good one).
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpr_jax.distributed import sharding
from tpr_jax.perf.allocator import hand_back_freed_memory
from tpr_jax.train.objective import grad_cached_loss_and_grad, objective


def init_state(optimizer: optax.GradientTransformation, trainable: dict) -> dict:
    """The state before the first step."""
    return {
        "trainable": trainable,
        "opt": optimizer.init(trainable),
        "step": jnp.zeros((), jnp.int32),
        "bad_step": -jnp.ones((), jnp.int32),
    }


def train_step(
    model: dict,
    optimizer,
    weights: dict[str, float],
    scale: float,
    state: dict,
    frozen: dict,
    batch: dict,
    parts: bool = False,
) -> tuple[dict, dict]:
    """One update of the trainable collections; returns (state, metrics).

    With `parts` the batch's arrays are [n, b / n, ...], and the towers see one part at a time.
    """
    if parts:
        found = grad_cached_loss_and_grad(model, weights, scale, state["trainable"], frozen, batch)
    else:
        differentiate = jax.value_and_grad(
            lambda trainable: objective(model, weights, scale, trainable, frozen, batch), has_aux=True
        )
        found = differentiate(state["trainable"])
    (_, metrics), gradient = found
    metrics["grad_norm"] = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    updates, opt = optimizer.update(gradient, state["opt"], state["trainable"])
    updated = {"trainable": optax.apply_updates(state["trainable"], updates), "opt": opt}
    # The update as well: a finite gradient makes none where Adam divides by 0, or takes the root of too much.
    # A norm of marks: XLA of jaxlib 0.10 would compile `isfinite(leaf).all()` of so many leaves for minutes.
    marks = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), 0.0, 1.0), updated)
    finite = (
        jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"]) & (optax.global_norm(marks) == 0)
    )
    good = finite & (state["bad_step"] < 0)
    kept = {name: state[name] for name in updated}
    new = jax.tree.map(lambda a, b: jnp.where(good, a, b), updated, kept)
    new["step"] = state["step"] + good
    new["bad_step"] = jnp.where((state["bad_step"] < 0) & ~finite, state["step"], state["bad_step"])
    return new, {**metrics, "bad_step": new["bad_step"]}


@functools.cache
def compiler_options(platform: str = "") -> dict[str, str]:
    """Options of `jax.jit` for devices of this platform, by default those that are here.

    XLA's fusions through YNNPACK on the CPU: without them the step of clip-mini took 0.73 s instead of 0.86
    (batch 64, two cores, jaxlib 0.10.2), and a quarter when another process wanted the cores too.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if (platform or jax.default_backend()) != "cpu":
        return {}
    try:
        jax.jit(jnp.negative).lower(1.0).compile(compiler_options=options)
    except Exception:  # another version of XLA that has no such option
        return {}
    return options


def encoder_options(rows: int) -> dict[str, str]:
    """The same for an encoder of so many rows.

    With one row the fusions help: at ViT-B/16 a text took 0.050 s with them and 0.058 without, in bfloat16
    0.08 and 0.13; 16 photos took 3.3 and 2.8, in bfloat16 4.9 and 3.8 (two cores without AMX).
    """
    return {} if rows == 1 else compiler_options()


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """The function as it is traced for a mesh, where split weights come together (`products.whole`)."""
    if mesh.size == 1:
        return function

    @functools.wraps(function)
    def traced(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def jit_train_step(
    model: dict, optimizer, weights: dict, scale: float, mesh: Mesh, accumulate: int = 1
) -> Callable:
    """Returns `(state, frozen, batch) -> (state, metrics)` for trees that `sharding` laid out.

    The state's memory is donated to the new state. The towers take the batch in `accumulate` microbatches.
    """

    def step(state, frozen, batch):
        rows = sharding.split_microbatches(mesh, batch, accumulate) if accumulate > 1 else batch
        new, metrics = train_step(model, optimizer, weights, scale, state, frozen, rows, parts=accumulate > 1)
        # Else the compiler would choose, and the next step be compiled anew for its choice.
        new = jax.lax.with_sharding_constraint(new, sharding.leaf_shardings(mesh, new))
        return new, jax.lax.with_sharding_constraint(metrics, NamedSharding(mesh, PartitionSpec()))

    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(on_mesh(step, mesh), donate_argnums=0, compiler_options=options)


def aot_compile(update: Callable, *arguments) -> Callable:
    """A jitted function, compiled for such arguments, without the memory that compiling it took."""
    program = update.lower(*arguments).compile()
    hand_back_freed_memory()
    return program


def compile_in_background(update: Callable, *arguments) -> Callable:
    """A jitted function, compiled in a thread of its own for such arguments; the first call waits for it."""

    def like(array):
        return jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=array.sharding, weak_type=array.weak_type
        )

    shapes = jax.tree.map(like, arguments)  # not the arrays, whose memory a step gives away
    compiling = ThreadPoolExecutor(1, "compile")
    found = compiling.submit(lambda: aot_compile(update, *shapes))
    compiling.shutdown(wait=False)
    return lambda *arguments: found.result()(*arguments)


def jit_encoder(encode: Callable, mesh: Mesh) -> Callable:
    """`(variables, images or ids) -> features float32 [b, e]`, unnormalized and on every device, of rows that
    `sharding.shard_batch` laid out."""
    return jax.jit(
        on_mesh(lambda variables, rows: encode(variables, rows)[0], mesh),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )


def jit_encoders(model: dict, mesh: Mesh) -> tuple[Callable, Callable]:
    """`(variables, images or ids) -> features float32 [b, e]`, unnormalized, for both towers.

    Every process gives all rows, and gets all features.
    """

    def from_all_rows(encode):
        run = jit_encoder(encode, mesh)
        return lambda variables, rows: run(variables, sharding.shard_batch(mesh, rows))

    return from_all_rows(model["encode_image"]), from_all_rows(model["encode_text"])
