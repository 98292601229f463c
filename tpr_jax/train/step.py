"""The train step and the two encoders: pure functions, jitted with their shardings."""

import collections
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpr_jax import model as model_lib
from tpr_jax.distributed import sharding
from tpr_jax.perf.allocator import release_freed_memory
from tpr_jax.perf.xla_options import compiler_options
from tpr_jax.train.objective import Logits, grad_cached_loss_and_grad, objective
from tpr_jax.train.state import TrainState

MAX_STACKED = 2**20  # elements of arrays that are copied to be checked together


def train_step(
    state: TrainState,
    frozen: dict,
    batch: dict,
    *,
    model: dict,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, float],
    scale: float | Logits,
    microbatched: bool = False,
) -> tuple[TrainState, dict]:
    """Computes one update of the trainable collections.

    Args:
      state: the training state.
      frozen: the frozen collections.
      batch: the arrays [b, ...] of a batch, see `objective`; with `microbatched` they are [n, b / n, ...].
      model: the functions of `models.clip.build`.
      optimizer: the optimizer of the trainable collections.
      weights: the weight of each loss, by its name.
      scale: the factor on cosine similarities, 1 / temperature, or all of `Logits`.
      microbatched: whether the towers see one microbatch at a time.

    Returns:
      (new state, metrics). A state with a `bad_step` is unchanged.
    """
    if microbatched:
        (_, metrics), grads = grad_cached_loss_and_grad(model, weights, scale, state.trainable, frozen, batch)
    else:
        loss_and_grad = jax.value_and_grad(
            lambda trainable: objective(model, weights, scale, trainable, frozen, batch), has_aux=True
        )
        (_, metrics), grads = loss_and_grad(state.trainable)
    new, metrics["grad_norm"] = apply_gradients(state, optimizer, grads, metrics["loss"])
    return new, {**metrics, "bad_step": new.bad_step}


def apply_gradients(
    state: TrainState, optimizer: optax.GradientTransformation, grads: dict, loss: jax.Array
) -> tuple[TrainState, jax.Array]:
    """Computes (new state, norm of the gradient); a step that is not finite changes nothing but `bad_step`.

    Args:
      state: the training state.
      optimizer: the optimizer of the trainable collections.
      grads: the gradient of the trainable collections.
      loss: the loss, a scalar.
    """
    grad_norm = optax.global_norm(_stack_small(grads))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    updated = {"trainable": optax.apply_updates(state.trainable, updates), "opt_state": opt_state}
    # A finite gradient can still give an update that is not: Adam may divide by 0 or overflow.
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & _all_finite(updated)
    good = finite & (state.bad_step < 0)
    current = {"trainable": state.trainable, "opt_state": state.opt_state}
    new = TrainState(
        **jax.tree.map(lambda a, b: jnp.where(good, a, b), updated, current),
        step=state.step + good,
        bad_step=jnp.where((state.bad_step < 0) & ~finite, state.step, state.bad_step),
    )
    return new, grad_norm


def _all_finite(tree) -> jax.Array:
    """Returns whether all numbers of all arrays of a tree are finite.

    Takes the norm of 0/1 flags, because XLA in jaxlib 0.10 needs minutes to compile `isfinite(leaf).all()`
    for this many arrays.
    """
    nonfinite = [jnp.where(jnp.isfinite(stacked), 0.0, 1.0) for stacked in _stack_small(tree)]
    return optax.global_norm(nonfinite) == 0


def _stack_small(tree) -> list[jax.Array]:
    """Stacks small arrays of the same shape.

    A reduction for each array would be a third of the step's kernels.
    """
    groups = collections.defaultdict(list)
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        key = (leaf.shape, leaf.dtype) if leaf.size < MAX_STACKED else i
        groups[key].append(leaf)
    return [jnp.stack(group) for group in groups.values()]


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """Returns the function as traced for a mesh.

    There, sharded weights are gathered (`models.matmul`), and attention is a kernel if the devices have one.
    """
    platform = mesh.devices.flat[0].platform
    if mesh.size == 1 and platform != "tpu" and platform == jax.default_backend():
        return function

    @functools.wraps(function)
    def traced(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def jit_train_step(
    model: dict,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, float],
    scale: float | Logits,
    mesh: Mesh,
    accumulate: int = 1,
    *,
    dtype: str,
) -> jax.stages.Wrapped:
    """Returns `(state, frozen, batch) -> (state, metrics)` for trees that `sharding` laid out.

    The memory of the state is donated to the new state. The towers take the batch in `accumulate`
    microbatches. See `train_step` for the arguments; `dtype` is the type that the towers compute in.
    """

    def step(state, frozen, batch):
        rows = sharding.split_microbatches(mesh, batch, accumulate) if accumulate > 1 else batch
        new, metrics = train_step(
            state,
            frozen,
            rows,
            model=model,
            optimizer=optimizer,
            weights=weights,
            scale=scale,
            microbatched=accumulate > 1,
        )
        # Otherwise the compiler chooses a sharding, and the next step is compiled again for its choice.
        new = jax.lax.with_sharding_constraint(new, sharding.leaf_shardings(mesh, new))
        return new, jax.lax.with_sharding_constraint(metrics, NamedSharding(mesh, PartitionSpec()))

    options = compiler_options(dtype=dtype, platform=mesh.devices.flat[0].platform)
    return jax.jit(on_mesh(step, mesh), donate_argnums=0, compiler_options=options)


def aot_compile(update: jax.stages.Wrapped, *arguments) -> jax.stages.Compiled:
    """Compiles a jitted function for these arguments, and frees the memory that compilation took."""
    program = update.lower(*arguments).compile()
    release_freed_memory()
    return program


def compile_in_background(update: jax.stages.Wrapped, *arguments) -> Callable:
    """Compiles a jitted function for these arguments in a thread; the first call waits for it."""

    def shape_of(array):
        return jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=array.sharding, weak_type=array.weak_type
        )

    shapes = jax.tree.map(shape_of, arguments)  # not the arrays, whose memory a step donates
    executor = ThreadPoolExecutor(1, "compile")
    program = executor.submit(lambda: aot_compile(update, *shapes))
    executor.shutdown(wait=False)
    return lambda *arguments: program.result()(*arguments)


def jit_encoder(encode: Callable, mesh: Mesh, *, dtype: str) -> jax.stages.Wrapped:
    """Returns `(variables, images or ids) -> features float32 [b, e]` for rows that `shard_batch` laid out.

    The features are unnormalized and replicated on every device.
    """
    return model_lib.jit_encoder(
        on_mesh(encode, mesh),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
        compiler_options=compiler_options(dtype=dtype, platform=mesh.devices.flat[0].platform),
    )


def jit_encoders(model: dict, mesh: Mesh, *, dtype: str) -> tuple[Callable, Callable]:
    """Returns `(variables, images or ids) -> features float32 [b, e]`, unnormalized, of both towers.

    Every process passes all rows and gets all features. The towers compute in `dtype`.
    """

    def from_all_rows(encode):
        run = jit_encoder(encode, mesh, dtype=dtype)
        return lambda variables, rows: run(variables, sharding.shard_batch(mesh, rows))

    return from_all_rows(model["encode_image"]), from_all_rows(model["encode_text"])
