"""Vectors rounded to 8 bits, so that a search passes over half the bytes; the answer stays exact.

Each number of a vector v is rounded to one of 255 between the least and the greatest that it has in the
gallery, and so is the query, to more, so that whole numbers are multiplied. The index knows the largest
distance |v - c| from a vector to what it was rounded to; by Cauchy and Schwarz a score q.v of a query of
length 1 is off by no more than that, and by the query's own rounding. So a photo can only be among the best k
if its rounded score reaches the k-th best one less twice the two. Those photos, a few hundred, are scored
again with the vectors themselves.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float16, Int, Int8, Int32

from tpr_jax.data.batches import worker_threads
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json, write_whole
from tpr_jax.utils.numba_cache import njit, numba

FROM = 4096  # vectors: fewer are scored at once
_BLOCK = 16384
_LEVELS = 254  # steps between the least and the greatest number: -127 to 127
_QUERY = 2**13  # the query's largest whole number, where products of this width fit 32 bits
_ROUNDING = 1e-6  # of scores to float32, and of float32 sums without Numba


@dataclass(frozen=True)
class Codes:
    """Whole numbers, memory-mapped; a vector is about `middle + step * numbers[i]`."""

    numbers: Int8[np.ndarray, "n e"]
    step: Float[np.ndarray, " e"]
    error: float  # the largest |v - c|
    longest: float  # the largest length of a row of `numbers`


def write_codes(vectors: Float16[np.ndarray, "n e"], folder: Path, stem: str) -> list[str]:
    """Rounds vectors, and writes them and how far that took them; returns the files' names.

    Raises:
      UserError: a file cannot be written.
    """
    low, high = _span(vectors)
    middle, step = (low + high) / 2, (high - low) / _LEVELS
    most = {"error": 0.0, "longest": 0.0}

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:  # not through a memory map, where a full disk kills the process
            header = {"descr": "|i1", "fortran_order": False, "shape": vectors.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for at in range(0, len(vectors), _BLOCK):
                block = vectors[at : at + _BLOCK].astype(np.float64)
                numbers = np.rint((block - middle) / np.where(step > 0, step, 1)).astype(np.int8)
                apart = np.linalg.norm(block - (middle + step * numbers), axis=1)
                lengths = np.linalg.norm(numbers.astype(np.float32), axis=1)
                most["error"] = max(most["error"], float(apart.max()))
                most["longest"] = max(most["longest"], float(lengths.max()))
                file.write(numbers.tobytes())

    write_whole(folder / f"{stem}.npy", write)
    write_json(folder / f"{stem}.json", {"step": step.tolist(), **most})
    return [f"{stem}.json", f"{stem}.npy"]


def open_codes(folder: Path, names: list[str]) -> Codes:
    """Maps what `write_codes` wrote into memory; nothing but its size is read yet.

    Raises:
      UserError: a file is missing or damaged.
    """
    try:
        settings = json.loads((folder / names[0]).read_text())
        numbers = np.load(folder / names[1], mmap_mode="r")
        step = np.array(settings["step"])
        if numbers.dtype != np.int8 or numbers.shape[1:] != step.shape:
            raise ValueError(f"holds {numbers.dtype} {numbers.shape} for {len(step)} steps")
        # So that it is compiled now, and the first question does not wait for it.
        _multiply(numbers[:0], np.zeros(len(step), np.int32), np.empty(0, np.int32))
        return Codes(numbers, step, float(settings["error"]), float(settings["longest"]))
    except (OSError, ValueError, KeyError) as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder / names[0]}: damaged ({what}); index the photos into a new folder"
        ) from error


def exact_top_k(
    codes: Codes,
    vectors: Float16[np.ndarray, "n e"],
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Scores and rows of the k best by q.v, best first, ties by row; `query` has length 1.

    Fewer where fewer rows are `allowed`.
    """
    k = min(k, len(vectors) if allowed is None else int(allowed.sum()))
    if k == 0:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    weights = query.astype(np.float64) * codes.step
    limit = min(_QUERY, (2**31 - 1) // (_LEVELS // 2 * len(weights)))
    unit = float(np.abs(weights).max()) / limit or 1.0
    rounded = np.rint(weights / unit).astype(np.int32)
    scores = _products(codes.numbers, rounded)
    if allowed is not None:
        scores[~allowed] = np.iinfo(np.int32).min
    off = codes.error + float(np.linalg.norm(weights - unit * rounded)) * codes.longest
    least = float(np.partition(scores, len(scores) - k)[len(scores) - k]) - 2 * (off + _ROUNDING) / unit
    rows = np.flatnonzero(scores >= least)
    if allowed is not None:
        rows = rows[allowed[rows]]
    exact = rescore(vectors, query, rows)
    best = np.lexsort((rows, -exact))[:k]
    return exact[best], rows[best]


def rescore(
    vectors: Float16[np.ndarray, "n e"], query: Float[np.ndarray, " e"], rows: Int[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """q.v of these rows. In float64, so that equal vectors tie whatever else is scored with them."""
    scores = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _BLOCK):
        part = vectors[rows[at : at + _BLOCK]].astype(np.float32).astype(np.float64)
        scores[at : at + _BLOCK] = part @ query.astype(np.float64)
    return scores


def _products(numbers: Int8[np.ndarray, "n e"], query: Int32[np.ndarray, " e"]) -> Int32[np.ndarray, " n"]:
    """The product of every row with the query, on all cores."""
    out, threads = np.empty(len(numbers), np.int32), worker_threads()
    size = max(1, min(4 * _BLOCK, -(-len(numbers) // threads)))
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(numbers), size)
        work = [(numbers[at : at + size], query, out[at : at + size]) for at in starts]
        list(pool.map(lambda given: _multiply(*given), work))
    return out


def _multiply_loop(numbers, query, out):
    """In four places at once, because a core that reads one row after the other waits for its memory."""
    quarter = len(numbers) // 4
    for row in range(quarter):
        first = second = third = fourth = 0
        for column in range(len(query)):
            weight = query[column]
            first += numbers[row, column] * weight
            second += numbers[quarter + row, column] * weight
            third += numbers[2 * quarter + row, column] * weight
            fourth += numbers[3 * quarter + row, column] * weight
        out[row], out[quarter + row] = first, second
        out[2 * quarter + row], out[3 * quarter + row] = third, fourth
    for row in range(4 * quarter, len(numbers)):
        total = 0
        for column in range(len(query)):
            total += numbers[row, column] * query[column]
        out[row] = total


def _multiply_plain(numbers, query, out):
    """Without Numba: float32 may round the products, by far less than the rounding to 8 bits."""
    for at in range(0, len(numbers), _BLOCK):
        out[at : at + _BLOCK] = np.rint(
            numbers[at : at + _BLOCK].astype(np.float32) @ query.astype(np.float32)
        )


# Without Numba NumPy multiplies in float32: the same rows, some ten times slower.
_multiply = njit(_multiply_loop, nogil=True) if numba is not None else _multiply_plain


def _span(vectors) -> Float[np.ndarray, "2 e"]:
    """The least and the greatest of each number."""
    low, high = np.full(vectors.shape[1], np.inf), np.full(vectors.shape[1], -np.inf)
    for at in range(0, len(vectors), _BLOCK):
        block = vectors[at : at + _BLOCK].astype(np.float32)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    return np.stack([low, high])
