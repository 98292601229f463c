"""What a compiled program does, read from its text: products, and what the devices send each other.

`cost_analysis()` counts the body of a loop once, whatever its trips; here each trip counts. All numbers are
of one device.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LANES = 128  # a product's inner and last axes fill that many at a time in a TPU's matrix unit


class Instruction(NamedTuple):
    """`shape` and `rest` (what comes behind the operands) as they are written."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(name -> instructions, the name of the one that is run) of a program's text."""
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$", line):
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (match := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)):
            current.append(_instruction(match[1], line[match.end() :]))
        elif line.startswith("}"):
            current = None
    return found, entry


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text) if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, _ = text.partition("(")
    text = text[len(opcode) :]
    end = _closing(text)
    operands = tuple(re.findall(r"%([\w.\-]+)", text[:end]))
    # A constant's value and a parameter's number are written where others have their operands.
    rest = text[1 if opcode in ("constant", "parameter") else end :]
    return Instruction(name, shape, opcode, operands, rest.lstrip(", "))


def _closing(text: str) -> int:
    """Where the parenthesis is closed that the text opens with."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i + 1
    return len(text)


def sizes(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """The arrays of a shape, which may be a tuple: (type, sizes of the axes)."""
    found = re.findall(r"\b(\w+)\[([\d,<=]*)\]", re.sub(r"\{[^{}]*\}", "", shape))
    axes = [(kind, tuple(int(n.lstrip("<=")) for n in axes.split(",") if n)) for kind, axes in found]
    return [(kind, axes) for kind, axes in axes if kind in BYTES]


def array_bytes(shape: str) -> float:
    """Without what a device's memory pads it with."""
    return sum(BYTES[kind] * math.prod(axes) for kind, axes in sizes(shape))


def times_run(found: dict[str, list[Instruction]], entry: str) -> dict[str, int]:
    """How often each computation runs; those that are called from nowhere are left out."""
    count: dict[str, int] = {}

    def add(name: str, times: int) -> None:
        count[name] = count.get(name, 0) + times
        for instruction in found[name]:
            for callee, trips in _callees(instruction, found):
                add(callee, times * trips)

    add(entry, 1)
    return count


def _callees(i: Instruction, found: dict) -> Iterator[tuple[str, int]]:
    if i.opcode == "while":
        body, condition = (re.search(rf"{key}=%?([\w.\-]+)", i.rest)[1] for key in ("body", "condition"))
        yield body, _trips(i.rest, found[condition])
    elif i.opcode in ("fusion", "call", "async-start", "custom-call", "conditional"):
        named = re.findall(r"(?:calls|to_apply|called_computations|\w+_computation)=\{?%?([\w.\-]+)", i.rest)
        branches = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
        named += re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
        yield from ((name, 1) for name in named if name in found)


def _trips(rest: str, condition: list[Instruction]) -> int:
    """How often a loop's body runs: as the compiler says, or by what its condition compares with."""
    if known := re.search(r'known_trip_count"?:?=?\{"?n"?:"?(\d+)', rest):
        return int(known[1])
    bounds = [re.match(r"(\d+)", i.rest) for i in condition if i.opcode == "constant"]
    return max((int(bound[1]) for bound in bounds if bound), default=1)


class Product(NamedTuple):
    """One product as it is compiled: `padded` counts its inner and last axes filled up to whole `LANES`."""

    shape: str
    times: int
    flops: float
    padded: float


def products(text: str) -> list[Product]:
    """All dots and convolutions, those in loops with all their trips in `times`, `flops` those of one."""
    found, entry = computations(text)
    listed = []
    for name, times in times_run(found, entry).items():
        shapes = {i.name: i.shape for i in found[name]}
        for i in found[name]:
            if i.opcode in ("dot", "convolution"):
                flops, inner, last = (_dot if i.opcode == "dot" else _convolution)(i, shapes)
                waste = math.prod(-(-n // LANES) * LANES / n for n in (inner, last))
                listed.append(Product(i.shape, times, flops, flops * waste))
    return listed


def _dot(i: Instruction, shapes: dict[str, str]) -> tuple[float, int, int]:
    """(operations, length of the sums, size of the last axis)."""
    ((_, out),) = sizes(i.shape)
    ((_, left),) = sizes(shapes[i.operands[0]])
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)
    inner = math.prod(left[int(n)] for n in axes[1].split(",")) if axes and axes[1] else 1
    return 2.0 * math.prod(out) * inner, inner, out[-1] if out else 1


def _convolution(i: Instruction, shapes: dict[str, str]) -> tuple[float, int, int]:
    """TPUs compile every product as one: batch axes become places, of which most windows hold nothing."""
    ((_, out),) = sizes(i.shape)
    ((_, left),) = sizes(shapes[i.operands[0]])
    ((_, right),) = sizes(shapes[i.operands[1]])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest)
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (re.search(r"window=\{([^}]*)\}", i.rest) or ["", ""])[1]))
    inner = right[labels[2].index("i")]
    flops = 2.0 * inner * out[labels[3].index("b")] * out[labels[3].index("f")]
    for axis in sorted(set(re.findall(r"\d", labels[3]))):

        def setting(key, default, axis=int(axis)):
            return window[key].split("x")[axis] if key in window else default

        low, _, high = setting("pad", "0_0").partition("_")
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
    """How many pairs of an output's place and a kernel's meet an element of the n there are."""
    places = (o * stride - low + k * right_dilation for o in range(out) for k in range(kernel))
    return sum(0 <= at <= (n - 1) * left_dilation and at % left_dilation == 0 for at in places)


class Collective(NamedTuple):
    """`sent` is what a device sends in one go, bytes; `group` how many devices take part."""

    kind: str
    shape: str
    times: int
    sent: float
    group: int


def collectives(text: str, devices: int) -> list[Collective]:
    """What the devices send each other, in rings: a gather or a scatter passes each piece on to all others,
    a sum of all is a scatter and a gather."""
    found, entry = computations(text)
    listed, seen = [], set()
    for name, times in times_run(found, entry).items():
        shapes = {i.name: i.shape for i in found[name]}
        for i in found[name]:
            kind = i.opcode.removesuffix("-start")
            # A TPU's compiler spreads one over several places, under the same number.
            number = re.search(r"channel_id=(\d+)", i.rest)
            if kind not in COLLECTIVES or (number and number[1] in seen):
                continue
            seen.add(number[1] if number else None)
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            held = sum(array_bytes(shapes[operand]) for operand in i.operands)
            n = _group(i.rest, devices)
            passed = {"all-reduce": 2 * (n - 1) / n, "all-gather": n - 1, "collective-permute": 1}
            sent = held * passed.get(kind, (n - 1) / n)
            if n > 1:
                listed.append(Collective(kind, i.shape, times, sent, n))
    return listed


def _group(rest: str, devices: int) -> int:
    """How many devices exchange among themselves."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return match[1].count(",") + 1
    return devices
