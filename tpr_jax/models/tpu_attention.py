"""Multi-head self-attention as one TPU kernel, forward and backward, on the output of the qkv projection.

Scores and weights never leave the chip, and q, k and v are neither split nor transposed: the kernel takes
[b, l, 3 d] and returns [b, l, d]. Each step of its grid handles all heads of one row of the batch, whose
scores fit into fast memory as they are: 193 x 193 for an image. (The tiles of FlashAttention, Dao et al.,
NeurIPS 2022, are for longer sequences.) The backward pass computes the weights again.

A matrix unit is at least 128 lanes wide, and a head has 64. Therefore neighboring heads are read as one slice
of 128 lanes, in which the lanes of all but one head are set to zero. This takes no more passes through the
matrix unit than heads of 64 lanes would, and no lane moves.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

LANES = 128
FAST_MEMORY = 12 * 2**20  # bytes that a kernel may use; by default the compiler gives it 16 MiB


class Settings(NamedTuple):
    """Static settings of the kernels.

    Attributes:
      heads: the number of heads.
      interpret: whether to interpret the kernels, on any device, instead of compiling them.
    """

    heads: int
    interpret: bool = False


def fits(qkv: Array | jax.ShapeDtypeStruct, heads: int) -> bool:
    """Returns whether the kernels support qkv's sizes.

    Heads must fill slices of 128 lanes, rows the devices, and one row must fit into fast memory: qkv, its
    gradient and that of the output, each twice, as it is read ahead, and a few arrays of a head's scores.
    """
    rows, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    full = width % LANES == 0 and LANES % (width // heads) == 0
    needed = 2 * 7 * tokens * width * qkv.dtype.itemsize + 6 * 4 * tokens**2
    return full and needed <= FAST_MEMORY and row_axes(rows) is not None


def self_attention(
    qkv: Float[Array, "b l n"],
    prefix: Float[Array, "2 m d"] | None,
    mask: Float[Array, "l l"] | None,
    settings: Settings,
) -> Float[Array, "b l d"]:
    """Computes scaled dot-product attention of all heads, with the softmax in float32.

    Args:
      qkv: the queries, keys and values of all heads, side by side.
      prefix: the keys and values of prefix tokens, which all queries see.
      mask: added to the scores of the other keys.
      settings: see `Settings`.
    """
    return _self_attention(qkv, prefix, mask, settings)


def row_axes(count: int) -> tuple[str, ...] | None:
    """Returns the axes of the mesh over which `count` rows are sharded: all, or the first; None for neither.

    A kernel runs on each device's own rows, as the compiler cannot split it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    for axes in (mesh.axis_names, mesh.axis_names[:1]):
        if count % math.prod(mesh.shape[axis] for axis in axes) == 0:
            return axes
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _self_attention(qkv, prefix, mask, settings):
    return _sharded(_run_forward, {"qkv": qkv, "prefix": prefix, "mask": mask}, ("out",), settings)["out"]


def _forward(qkv, prefix, mask, settings):
    return _self_attention(qkv, prefix, mask, settings), (qkv, prefix, mask)


def _backward(settings, residuals, g):
    qkv, prefix, mask = residuals
    inputs = {"qkv": qkv, "g": g.astype(qkv.dtype), "prefix": prefix, "mask": mask}
    outputs = ("grad_qkv",) if prefix is None else ("grad_qkv", "grad_prefix")
    grads = _sharded(_run_backward, inputs, outputs, settings)
    return grads["grad_qkv"], None if prefix is None else grads["grad_prefix"].astype(prefix.dtype), None


_self_attention.defvjp(_forward, _backward)

# Arrays with one block for each row of the batch; the others are read once, or written after the last row.
BY_ROW = ("qkv", "g", "out", "grad_qkv")


def _sharded(run: Callable, inputs: dict, outputs: tuple[str, ...], settings: Settings) -> dict:
    """Calls `run(inputs, settings, axes)` on the rows of each device of the mesh, if there is one."""
    inputs = {name: array for name, array in inputs.items() if array is not None}
    if jax.sharding.get_abstract_mesh().empty:
        return run(inputs, settings, ())
    axes = row_axes(len(inputs["qkv"])) or ()

    def specs(names):
        return {name: PartitionSpec(axes) if name in BY_ROW else PartitionSpec() for name in names}

    mapped = functools.partial(run, settings=settings, axes=axes)
    return jax.shard_map(mapped, in_specs=(specs(inputs),), out_specs=specs(outputs), check_vma=False)(inputs)


def _run_forward(inputs: dict, settings: Settings, axes: tuple[str, ...]) -> dict:
    b, l, width = inputs["qkv"].shape
    outputs = {"out": jax.ShapeDtypeStruct((b, l, width // 3), inputs["qkv"].dtype)}
    return _call(_forward_kernel, inputs, outputs, settings)


def _run_backward(inputs: dict, settings: Settings, axes: tuple[str, ...]) -> dict:
    outputs = {"grad_qkv": jax.ShapeDtypeStruct(inputs["qkv"].shape, inputs["qkv"].dtype)}
    if "prefix" in inputs:
        outputs["grad_prefix"] = jax.ShapeDtypeStruct(inputs["prefix"].shape, jnp.float32)
    grads = _call(_backward_kernel, inputs, outputs, settings)
    if "prefix" in inputs and axes:
        grads["grad_prefix"] = jax.lax.psum(grads["grad_prefix"], axes)
    return grads


def _call(kernel, inputs: dict, outputs: dict, settings: Settings) -> dict:
    """Runs a kernel on named refs once for each row of the batch."""
    rows, tokens, width = inputs["qkv"].shape

    def spec(name, shape):
        if name in BY_ROW:
            return pl.BlockSpec((1, *shape[1:]), lambda row: (row, 0, 0))
        return pl.BlockSpec(shape, lambda row: (0,) * len(shape))

    def run(*refs):
        kernel(dict(zip([*inputs, *outputs], refs, strict=True)), settings.heads)

    # The products of a forward pass are q k and weights v; the backward pass has five.
    products = 2 if "out" in outputs else 5
    keys = tokens + (inputs["prefix"].shape[1] if "prefix" in inputs else 0)
    arrays = [*inputs.values(), *outputs.values()]
    results = pl.pallas_call(
        run,
        grid=(rows,),
        in_specs=[spec(name, array.shape) for name, array in inputs.items()],
        out_specs=[spec(name, array.shape) for name, array in outputs.items()],
        out_shape=list(outputs.values()),
        compiler_params=pltpu.CompilerParams(
            # Rows are independent, unless they add to the same gradient.
            dimension_semantics=("arbitrary" if "grad_prefix" in outputs else "parallel",)
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * rows * tokens * keys * width // 3,
            transcendentals=rows * settings.heads * tokens * keys,
            bytes_accessed=sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays),
        ),
        interpret=settings.interpret,
        name="self_attention" if "out" in outputs else "self_attention_backward",
    )(*inputs.values())
    return dict(zip(outputs, results, strict=True))


def _product(a, b, contract: tuple[int, int]):
    """Computes a product over these axes of two matrices, in float32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    axes = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, axes, precision=precision, preferred_element_type=jnp.float32)


class Head(NamedTuple):
    """The slices of one head, each 128 lanes wide, with other heads' lanes beside its own.

    Attributes:
      lanes: the position of the slice among the d features.
      own: whether a lane is the head's, [1, lanes].
      q: the queries, zero in the lanes of other heads.
      keys: (keys, values, mask or None) of the prefix, where there is one, and of the tokens.
    """

    lanes: slice
    own: Array
    q: Array
    keys: list[tuple[Array, Array, Array | None]]


def _heads(refs: dict, heads: int):
    """Yields the heads of a row."""
    width = refs["qkv"].shape[-1] // 3
    size = width // heads
    for head in range(heads):
        start = head * size // LANES * LANES
        lanes = slice(start, start + LANES)
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) + start
        own = (lane >= head * size) & (lane < (head + 1) * size)
        q, k, v = (refs["qkv"][0, :, slice(i * width + start, i * width + start + LANES)] for i in range(3))
        keys = [(k, v, refs["mask"][:] if "mask" in refs else None)]
        if "prefix" in refs:
            keys.insert(0, (*(refs["prefix"][i, :, lanes].astype(q.dtype) for i in range(2)), None))
        yield Head(lanes, own, jnp.where(own, q, 0), keys)


def _weights(head: Head, scale: float) -> list:
    """Computes the attention weights over each group of keys, in float32."""
    scores = [scale * _product(head.q, k, (1, 1)) for k, _, _ in head.keys]
    scores = [s if mask is None else s + mask for s, (_, _, mask) in zip(scores, head.keys, strict=True)]
    top = functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) for s in scores])
    exp = [jnp.exp(s - top) for s in scores]
    total = sum(e.sum(-1, keepdims=True) for e in exp)
    return [e / total for e in exp]


def _forward_kernel(refs: dict, heads: int) -> None:
    out = refs["out"]
    scale = (out.shape[-1] // heads) ** -0.5
    for head in _heads(refs, heads):
        values = sum(
            _product(weights.astype(v.dtype), v, (1, 0))
            for weights, (_, v, _) in zip(_weights(head, scale), head.keys, strict=True)
        )
        _keep(out, (0, slice(None), head.lanes), head, values)


def _backward_kernel(refs: dict, heads: int) -> None:
    grad, g_ref = refs["grad_qkv"], refs["g"]
    width = g_ref.shape[-1]
    scale = (width // heads) ** -0.5
    if "grad_prefix" in refs:

        @pl.when(pl.program_id(0) == 0)
        def _():
            refs["grad_prefix"][...] = jnp.zeros_like(refs["grad_prefix"])

    for head in _heads(refs, heads):
        g = jnp.where(head.own, g_ref[0, :, head.lanes], 0)
        weights = _weights(head, scale)
        grads = [_product(g, v, (1, 1)) for _, v, _ in head.keys]
        total = sum((w * d).sum(-1, keepdims=True) for w, d in zip(weights, grads, strict=True))
        scores = [(w * (d - total)).astype(g.dtype) for w, d in zip(weights, grads, strict=True)]
        grad_q = sum(_product(s, k, (1, 0)) for s, (k, _, _) in zip(scores, head.keys, strict=True))
        # Zero in the lanes of other heads, as q and g are.
        grad_k = [scale * _product(s, head.q, (0, 0)) for s in scores]
        grad_v = [_product(w.astype(g.dtype), g, (0, 0)) for w in weights]
        for i, value in enumerate((scale * grad_q, grad_k[-1], grad_v[-1])):
            lanes = slice(i * width + head.lanes.start, i * width + head.lanes.stop)
            _keep(grad, (0, slice(None), lanes), head, value)
        if "grad_prefix" in refs:
            for i, value in enumerate((grad_k[0], grad_v[0])):
                refs["grad_prefix"][i, :, head.lanes] += value


def _keep(ref, at: tuple, head: Head, value) -> None:
    """Writes a head's lanes of a slice; a head that is not the first of its slice keeps the others'."""
    value = value.astype(ref.dtype)
    ref[at] = jnp.where(head.own, value, ref[at])
