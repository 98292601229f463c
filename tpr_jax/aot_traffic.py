"""How many bytes a compiled program moves from and to a device's main memory, read from its text.

What the compiler keeps in the chip's fast memory (TPU layouts name it, `S(1)`) costs nothing here, and of a
large array that a fusion only cuts from, the piece counts. `cost_analysis()` knows neither fast memory nor
how often a loop runs.
"""

import re

from tpr_jax.aot_hlo import Instruction, array_bytes, computations, times_run

# These move nothing, or stand for what is counted where it happens.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional"}
FREE |= {"partition-id", "replica-id", "after-all", "iota", "opt-barrier", "add-dependency"}
CUTS = ("dynamic-slice", "slice", "gather")
PIECE = r"\w+\[[\d,<=]*\](?:\{[^{}]*\})?"


def traffic(text: str) -> float:
    """Bytes read from and written to main memory in one run of the program, of one device."""
    found, entry = computations(text)
    # What a fusion computes inside itself never leaves the chip.
    inner = {
        name
        for instructions in found.values()
        for i in instructions
        if i.opcode == "fusion"
        for name in re.findall(r"calls=%?([\w.\-]+)", i.rest)
    }
    moved = 0.0
    for name, times in times_run(found, entry).items():
        if name not in inner:
            shapes = {i.name: i.shape for i in found[name]}
            moved += times * sum(_moved(i, shapes, found) for i in found[name])
    return moved


def _moved(i: Instruction, shapes: dict[str, str], found: dict[str, list[Instruction]]) -> float:
    if i.opcode in FREE or i.opcode.endswith(("-done", "-update")):
        return 0.0
    if i.opcode in ("copy-start", "slice-start"):  # from one memory to the other, while the chip computes
        pieces = re.findall(PIECE, i.shape)[:2]
        return min(map(array_bytes, pieces)) * sum(map(_in_far, pieces))
    body = None
    if i.opcode == "fusion" and (match := re.search(r"calls=%?([\w.\-]+)", i.rest)):
        body = found.get(match[1])
    if i.opcode in CUTS:
        return _far(i.shape) * (1 + _in_far(shapes[i.operands[0]]))
    if i.opcode == "dynamic-update-slice":
        return 2 * _far(shapes[i.operands[1]])
    read = 0.0
    for position, operand in enumerate(i.operands):
        shape = shapes.get(operand, "")
        if shape and not shape.startswith("("):
            read += _in_far(shape) * (_used(body, position) if body else array_bytes(shape))
    if i.opcode.endswith("-start"):
        return read  # its result is counted where it is read
    return read + (_written(body) if body and not i.shape.startswith("(") else _far(i.shape))


def _used(body: list[Instruction], position: int) -> float:
    """How much of its parameter a fusion reads: all, unless it only cuts pieces from it."""
    parameter = next((i for i in body if i.opcode == "parameter" and i.rest.startswith(f"{position})")), None)
    if parameter is None:
        return 0.0
    users = [i for i in body if parameter.name in i.operands]
    if users and all(i.opcode in CUTS and i.operands[0] == parameter.name for i in users):
        return sum(array_bytes(i.shape) for i in users)
    if users and all(i.opcode == "dynamic-update-slice" and i.operands[0] == parameter.name for i in users):
        return 0.0  # written in place
    return array_bytes(parameter.shape)


def _written(body: list[Instruction]) -> float:
    """What a fusion with one result writes: only the piece where it changes one in place."""
    root = body[-1]
    if root.opcode == "dynamic-update-slice":
        shapes = {i.name: i.shape for i in body}
        return _far(root.shape) and array_bytes(shapes[root.operands[1]])
    return _far(root.shape)


def _in_far(shape: str) -> bool:
    """Whether the array lies in main memory."""
    return not re.search(r"S\([1-9]\d*\)", shape)


def _far(shape: str) -> float:
    """The bytes of a shape, or of a tuple of them, that lie in main memory."""
    return sum(array_bytes(piece) for piece in re.findall(PIECE, shape) if _in_far(piece))
