"""Counts the bytes that a compiled program moves to and from a device's main memory, from its text.

Arrays in the chip's fast memory (`S(1)` in TPU layouts) are free, and where a fusion only slices a large
array, only the slice counts. `cost_analysis()` ignores fast memory and the number of loop iterations.

A Pallas kernel counts with its operands and results in main memory, once each, and in addition with the bytes
that it declares beyond the sizes of all its arrays, for blocks that its grid reads more than once.
"""

import re

from tpr_jax.aot.hlo import (
    Computations,
    Instruction,
    array_bytes,
    computations,
    declared_cost,
    unfused,
)

# These move nothing, or are counted where they are computed.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional"}
FREE |= {"partition-id", "replica-id", "after-all", "iota", "opt-barrier", "add-dependency"}
SLICES = ("dynamic-slice", "slice", "gather")
ARRAY = r"\w+\[[\d,<=]*\](?:\{[^{}]*\})?"


def traffic(text: str) -> float:
    """Returns the bytes that one device reads from and writes to main memory in one run of the program."""
    parsed, entry = computations(text)
    moved = 0.0
    for name, times in unfused(parsed, entry).items():  # what is inside a fusion never leaves the chip
        shapes = {i.name: i.shape for i in parsed[name]}
        moved += times * sum(_moved(i, shapes, parsed) for i in parsed[name])
    return moved


def is_free(opcode: str) -> bool:
    """Returns whether an instruction starts nothing on the device."""
    return opcode in FREE or opcode.endswith(("-done", "-update"))


def _moved(i: Instruction, shapes: dict[str, str], parsed: Computations) -> float:
    if is_free(i.opcode):
        return 0.0
    if i.opcode in ("copy-start", "slice-start"):  # asynchronous copies between the memories
        arrays = re.findall(ARRAY, i.shape)[:2]
        return min(map(array_bytes, arrays)) * sum(map(_in_main_memory, arrays))
    if i.opcode == "custom-call" and not i.operands:
        return 0.0  # allocates a buffer that is written later
    body = _body(i, parsed)
    if i.opcode in SLICES:
        return _main_memory_bytes(i.shape) * (1 + _in_main_memory(shapes[i.operands[0]]))
    if i.opcode == "dynamic-update-slice":
        return 2 * _main_memory_bytes(shapes[i.operands[1]])
    read = 0.0
    for position, operand in enumerate(i.operands):
        shape = shapes.get(operand, "")
        if shape and not shape.startswith("(") and _in_main_memory(shape):
            read += _bytes_read(body, position, parsed) if body else array_bytes(shape)
    if cost := declared_cost(i):
        arrays = array_bytes(i.shape) + sum(array_bytes(shapes[name]) for name in i.operands)
        read += max(0.0, cost["bytes_accessed"] - arrays)
    if i.opcode.endswith("-start"):
        return read  # the result is counted where it is read
    return read + (_bytes_written(body, i.shape, parsed) if body else _main_memory_bytes(i.shape))


def _body(i: Instruction, parsed: Computations) -> list[Instruction] | None:
    """Returns the instructions of a fusion's computation."""
    match = re.search(r"calls=%?([\w.\-]+)", i.rest) if i.opcode == "fusion" else None
    return parsed.get(match[1]) if match else None


def _bytes_read(body: list[Instruction], position: int, parsed: Computations) -> float:
    """Returns the bytes of a parameter that a fusion reads: all, or what it slices or updates in place."""
    own = next((i for i in body if i.opcode == "parameter" and i.rest.startswith(f"{position})")), None)
    return min(_bytes_read_of(own, body, parsed), array_bytes(own.shape)) if own else 0.0


def _bytes_read_of(own: Instruction, body: list[Instruction], parsed: Computations) -> float:
    read = 0.0
    for i in body:
        if own.name not in i.operands:
            continue
        first = i.operands[0] == own.name
        if i.opcode == "bitcast":
            read += _bytes_read_of(i, body, parsed)
        elif i.opcode in SLICES and first:
            read += array_bytes(i.shape)
        elif i.opcode == "dynamic-update-slice" and first:
            read += 0.0
        elif inner := _body(i, parsed):
            read += sum(
                _bytes_read(inner, at, parsed) for at, name in enumerate(i.operands) if name == own.name
            )
        else:
            read += array_bytes(own.shape)
    return read


def _bytes_written(body: list[Instruction], shape: str, parsed: Computations) -> float:
    """Returns the bytes that a fusion writes to main memory; of a result updated in place only the slice."""
    made = {i.name: i for i in body}
    root = body[-1]
    results = [made[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return sum(
        _slice_bytes(i, made, parsed)
        for i, where in zip(results, re.findall(ARRAY, shape), strict=False)
        if _in_main_memory(where)
    )


def _slice_bytes(i: Instruction, made: dict[str, Instruction], parsed: Computations) -> float:
    if i.opcode == "bitcast":
        return _slice_bytes(made[i.operands[0]], made, parsed)
    if i.opcode == "dynamic-update-slice":
        return array_bytes(made[i.operands[1]].shape)
    inner = _body(i, parsed)
    if inner and inner[-1].opcode in ("dynamic-update-slice", "bitcast"):
        return _slice_bytes(inner[-1], {j.name: j for j in inner}, parsed)
    return array_bytes(i.shape)


def _in_main_memory(shape: str) -> bool:
    """Returns whether the array is in main memory."""
    return not re.search(r"S\([1-9]\d*\)", shape)


def _main_memory_bytes(shape: str) -> float:
    """Returns the bytes of a shape, or of a tuple of shapes, that are in main memory."""
    return sum(array_bytes(piece) for piece in re.findall(ARRAY, shape) if _in_main_memory(piece))
