"""Lists the matrix products of a compiled program.

`cost_analysis()` counts the body of a loop once, whatever its number of iterations; here each iteration
counts. The compiler cannot look into a kernel: one of Pallas declares its operations itself, and those of a
call of cuBLAS or cuDNN follow from its shapes. All numbers are for one device.
"""

import math
import re
from typing import NamedTuple

from tpr_jax.aot.hlo import Instruction, computations, declared_cost, execution_counts, find, sizes

LANES = 128  # a TPU's matrix unit processes this many elements of a product's inner and last axes at a time


class Product(NamedTuple):
    """A matrix product in a compiled program, or all products of a kernel.

    Attributes:
      shape: the shape of the result.
      times: how often the product runs.
      flops: the operations of one run.
      padded: the same with the inner and last axes padded to multiples of `LANES`.
    """

    shape: str
    times: int
    flops: float
    padded: float


def products(text: str) -> list[Product]:
    """Returns all dots, convolutions and kernels; `times` includes the iterations of loops."""
    parsed, entry = computations(text)
    listed = []
    for name, times in execution_counts(parsed, entry).items():
        shapes = {i.name: i.shape for i in parsed[name]}
        for i in parsed[name]:
            if i.opcode in ("dot", "convolution"):
                flops, inner, last = (_dot if i.opcode == "dot" else _convolution)(i, shapes)
                waste = math.prod(-(-n // LANES) * LANES / n for n in (inner, last))
                listed.append(Product(i.shape, times, flops, flops * waste))
            elif cost := declared_cost(i):
                # One axis of each product in attention is a head's, of 64 lanes.
                listed.append(Product(i.shape, times, float(cost["flops"]), 2.0 * cost["flops"]))
            elif flops := _library_call(i, shapes):
                listed.append(Product(i.shape, times, flops, flops))
    return listed


def _library_call(i: Instruction, shapes: dict[str, str]) -> float | None:
    """Returns the operations of a call of cuBLAS or of cuDNN's attention; None for other instructions."""
    if i.opcode != "custom-call":
        return None
    if '"__cublas$' in i.rest:
        (_, left), axes = (
            sizes(shapes[i.operands[0]])[0],
            find(r'"lhs_contracting_dimensions":\[([^\]]*)\]', i),
        )
        inner = math.prod(left[int(n)] for n in re.findall(r"\d+", axes[1]))
        return 2.0 * math.prod(sizes(i.shape)[0][1]) * inner
    if '"__cudnn$fmha' in i.rest:
        scores = find(r'"intermediate_tensor_shape": ?\{[^}]*?"dimensions": ?\[([^\]]*)\]', i)[1]
        product = 2.0 * math.prod(map(int, re.findall(r"\d+", scores))) * sizes(i.shape)[0][1][-1]
        # Backward computes the scores again, and the gradients of the weights and of q, k and v.
        return product * (5 if "Backward" in i.rest else 2)
    return None


def _dot(i: Instruction, shapes: dict[str, str]) -> tuple[float, int, int]:
    """Returns the operations, the size of the contracted axes and the size of the last axis."""
    ((_, out),) = sizes(i.shape)
    ((_, left),) = sizes(shapes[i.operands[0]])
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)
    inner = math.prod(left[int(n)] for n in axes[1].split(",")) if axes and axes[1] else 1
    return 2.0 * math.prod(out) * inner, inner, out[-1] if out else 1


def _convolution(i: Instruction, shapes: dict[str, str]) -> tuple[float, int, int]:
    """Returns the same as `_dot`, for a convolution.

    TPUs compile every product as a convolution whose spatial axes are batch axes, so that most positions of
    its windows are padding; these are not counted.
    """
    ((_, out),) = sizes(i.shape)
    ((_, left),) = sizes(shapes[i.operands[0]])
    ((_, right),) = sizes(shapes[i.operands[1]])
    labels = find(r"dim_labels=(\w+)_(\w+)->(\w+)", i)
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (re.search(r"window=\{([^}]*)\}", i.rest) or ["", ""])[1]))
    inner = right[labels[2].index("i")]
    flops = 2.0 * inner * out[labels[3].index("b")] * out[labels[3].index("f")]
    for axis in sorted(set(re.findall(r"\d", labels[3]))):

        def setting(key, default, axis=int(axis)):
            return window[key].split("x")[axis] if key in window else default

        low, _, _ = setting("pad", "0_0").partition("_")
        flops *= _taps(
            left[labels[1].index(axis)],
            right[labels[2].index(axis)],
            out[labels[3].index(axis)],
            stride=int(setting("stride", 1)),
            low=int(low),
            left_dilation=int(setting("lhs_dilate", 1)),
            right_dilation=int(setting("rhs_dilate", 1)),
        )
    return flops, inner, out[labels[3].index("f")]


def _taps(n: int, kernel: int, out: int, *, stride, low, left_dilation, right_dilation) -> int:
    """Counts the (output, kernel) position pairs that read one of the n elements rather than padding."""
    positions = (o * stride - low + k * right_dilation for o in range(out) for k in range(kernel))
    return sum(0 <= at <= (n - 1) * left_dilation and at % left_dilation == 0 for at in positions)
