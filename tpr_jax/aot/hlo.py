"""Parses a compiled program's text: its instructions, how often they run, and its collectives."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Instruction(NamedTuple):
    """An HLO instruction; `shape` and `rest`, the text after the operands, are unparsed."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


Computations = dict[str, list[Instruction]]  # by the computation's name


def computations(text: str) -> tuple[Computations, str]:
    """Parses a program's text into name -> instructions; also returns the name of the entry computation."""
    parsed: Computations = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$", line):
            current = parsed.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (match := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)):
            current.append(_instruction(match[1], line[match.end() :]))
        elif line.startswith("}"):
            current = None
    return parsed, entry


def _instruction(name: str, text: str) -> Instruction:
    end = _closing_end(text) if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, _ = text.partition("(")
    text = text[len(opcode) :]
    end = _closing_end(text)
    operands = tuple(re.findall(r"%([\w.\-]+)", text[:end]))
    # A constant's value and a parameter's number stand in place of operands.
    rest = text[1 if opcode in ("constant", "parameter") else end :]
    return Instruction(name, shape, opcode, operands, rest.lstrip(", "))


def _closing_end(text: str) -> int:
    """Returns the position after the parenthesis that closes the one the text opens with."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i + 1
    return len(text)


def sizes(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns (type, sizes of the axes) of each array of a shape, which may be a tuple."""
    arrays = re.findall(r"\b(\w+)\[([\d,<=]*)\]", re.sub(r"\{[^{}]*\}", "", shape))
    axes = [(kind, tuple(int(n.lstrip("<=")) for n in axes.split(",") if n)) for kind, axes in arrays]
    return [(kind, axes) for kind, axes in axes if kind in BYTES]


def array_bytes(shape: str) -> float:
    """Returns the bytes of a shape's arrays, without the padding of a device's layout."""
    return sum(BYTES[kind] * math.prod(axes) for kind, axes in sizes(shape))


def execution_counts(parsed: Computations, entry: str) -> dict[str, int]:
    """Returns how often each computation runs, without those that are never called."""
    count: dict[str, int] = {}

    def add(name: str, times: int) -> None:
        count[name] = count.get(name, 0) + times
        for instruction in parsed[name]:
            for callee, trips in _callees(instruction, parsed):
                add(callee, times * trips)

    add(entry, 1)
    return count


def unfused(parsed: Computations, entry: str) -> dict[str, int]:
    """Returns how often each computation runs whose instructions are not the inside of a fusion."""
    fused = {
        name
        for instructions in parsed.values()
        for i in instructions
        if i.opcode == "fusion"
        for name in re.findall(r"calls=%?([\w.\-]+)", i.rest)
    }
    return {name: times for name, times in execution_counts(parsed, entry).items() if name not in fused}


def _callees(i: Instruction, parsed: Computations) -> Iterator[tuple[str, int]]:
    if i.opcode == "while":
        body, condition = (find(rf"{key}=%?([\w.\-]+)", i)[1] for key in ("body", "condition"))
        yield body, _trips(i.rest, parsed[condition])
    elif i.opcode in ("fusion", "call", "async-start", "custom-call", "conditional"):
        named = re.findall(r"(?:calls|to_apply|called_computations|\w+_computation)=\{?%?([\w.\-]+)", i.rest)
        branches = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
        named += re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
        yield from ((name, 1) for name in named if name in parsed)


def find(pattern: str, i: Instruction) -> re.Match[str]:
    """Matches a pattern that must occur in the text of an instruction."""
    if match := re.search(pattern, i.rest):
        return match
    raise ValueError(
        f"cannot parse the HLO instruction %{i.name} = {i.opcode}: no {pattern} in {i.rest[:200]!r}"
    )


def _trips(rest: str, condition: list[Instruction]) -> int:
    """Returns a loop's number of iterations, as the compiler gives it or from its condition's bound."""
    if known := re.search(r'known_trip_count"?:?=?\{"?n"?:"?(\d+)', rest):
        return int(known[1])
    bounds = [re.match(r"(\d+)", i.rest) for i in condition if i.opcode == "constant"]
    return max((int(bound[1]) for bound in bounds if bound), default=1)


def declared_cost(i: Instruction) -> dict[str, int] | None:
    """Returns a kernel's `flops` and `bytes_accessed` as its `pallas_call` declares them; None for others."""
    if i.opcode != "custom-call" or '"tpu_custom_call"' not in i.rest:
        return None
    estimate = find(r'"cost_estimate":\{([^}]*)\}', i)[1]
    return {key: int(value) for key, value in re.findall(r'"(\w+)":"(\d+)"', estimate)}


class Collective(NamedTuple):
    """A collective in a compiled program.

    Attributes:
      kind: one of `COLLECTIVES`.
      shape: the shape of the result.
      times: how often it runs.
      sent: the bytes that a device sends in one run.
      group: the number of devices that take part.
    """

    kind: str
    shape: str
    times: int
    sent: float
    group: int


def collectives(text: str, devices: int) -> list[Collective]:
    """Returns all collectives, with the bytes of ring algorithms.

    A gather or scatter passes each shard on to all other devices; an all-reduce is a scatter and a gather.

    Args:
      text: the program's text.
      devices: the number of devices.
    """
    parsed, entry = computations(text)
    listed, seen = [], set()
    for name, times in execution_counts(parsed, entry).items():
        shapes = {i.name: i.shape for i in parsed[name]}
        for i in parsed[name]:
            kind = i.opcode.removesuffix("-start")
            # A TPU's compiler splits one into several instructions with the same channel.
            channel = re.search(r"channel_id=(\d+)", i.rest)
            if kind not in COLLECTIVES or (channel and channel[1] in seen):
                continue
            seen.add(channel[1] if channel else None)
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            operand_bytes = sum(array_bytes(shapes[operand]) for operand in i.operands)
            n = _group(i.rest, devices)
            passed = {"all-reduce": 2 * (n - 1) / n, "all-gather": n - 1, "collective-permute": 1}
            sent = operand_bytes * passed.get(kind, (n - 1) / n)
            if n > 1:
                listed.append(Collective(kind, i.shape, times, sent, n))
    return listed


def _group(rest: str, devices: int) -> int:
    """Returns the number of devices in each replica group."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return match[1].count(",") + 1
    return devices
