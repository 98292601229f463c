"""How many bytes a compiled program moves from and to a device's main memory, read from its text.

What the compiler keeps in the chip's fast memory (TPU layouts name it, `S(1)`) costs nothing here, and of a
large array that a fusion only cuts from, the piece counts. `cost_analysis()` knows neither fast memory nor
how often a loop runs.
"""

import re

from tpr_jax.aot.hlo import Instruction, array_bytes, computations, times_run

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
    if i.opcode == "custom-call" and not i.operands:
        return 0.0  # room for what is written later
    body = _body(i, found)
    if i.opcode in CUTS:
        return _far(i.shape) * (1 + _in_far(shapes[i.operands[0]]))
    if i.opcode == "dynamic-update-slice":
        return 2 * _far(shapes[i.operands[1]])
    read = 0.0
    for position, operand in enumerate(i.operands):
        shape = shapes.get(operand, "")
        if shape and not shape.startswith("(") and _in_far(shape):
            read += _used(body, position, found) if body else array_bytes(shape)
    if i.opcode.endswith("-start"):
        return read  # its result is counted where it is read
    return read + (_written(body, i.shape, found) if body else _far(i.shape))


def _body(i: Instruction, found: dict[str, list[Instruction]]) -> list[Instruction] | None:
    """What a fusion computes inside itself."""
    match = re.search(r"calls=%?([\w.\-]+)", i.rest) if i.opcode == "fusion" else None
    return found.get(match[1]) if match else None


def _used(body: list[Instruction], position: int, found: dict[str, list[Instruction]]) -> float:
    """How much of its parameter a fusion reads: all, unless it only cuts pieces from it, or changes one in
    place."""
    own = next((i for i in body if i.opcode == "parameter" and i.rest.startswith(f"{position})")), None)
    return min(_used_of(own, body, found), array_bytes(own.shape)) if own else 0.0


def _used_of(own: Instruction, body: list[Instruction], found: dict[str, list[Instruction]]) -> float:
    read = 0.0
    for i in body:
        if own.name not in i.operands:
            continue
        first = i.operands[0] == own.name
        if i.opcode == "bitcast":
            read += _used_of(i, body, found)
        elif i.opcode in CUTS and first:
            read += array_bytes(i.shape)
        elif i.opcode == "dynamic-update-slice" and first:
            read += 0.0
        elif inner := _body(i, found):
            read += sum(_used(inner, at, found) for at, name in enumerate(i.operands) if name == own.name)
        else:
            read += array_bytes(own.shape)
    return read


def _written(body: list[Instruction], shape: str, found: dict[str, list[Instruction]]) -> float:
    """What a fusion with results of this shape writes to main memory: of one changed in place the piece."""
    made = {i.name: i for i in body}
    root = body[-1]
    results = [made[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return sum(
        _piece(i, made, found)
        for i, where in zip(results, re.findall(PIECE, shape), strict=False)
        if _in_far(where)
    )


def _piece(i: Instruction, made: dict[str, Instruction], found: dict[str, list[Instruction]]) -> float:
    if i.opcode == "bitcast":
        return _piece(made[i.operands[0]], made, found)
    if i.opcode == "dynamic-update-slice":
        return array_bytes(made[i.operands[1]].shape)
    inner = _body(i, found)
    if inner and inner[-1].opcode in ("dynamic-update-slice", "bitcast"):
        return _piece(inner[-1], {j.name: j for j in inner}, found)
    return array_bytes(i.shape)


def _in_far(shape: str) -> bool:
    """Whether the array lies in main memory."""
    return not re.search(r"S\([1-9]\d*\)", shape)


def _far(shape: str) -> float:
    """The bytes of a shape, or of a tuple of them, that lie in main memory."""
    return sum(array_bytes(piece) for piece in re.findall(PIECE, shape) if _in_far(piece))
