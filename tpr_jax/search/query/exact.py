"""Exact search over vectors quantized to 8 bits, which reads half the bytes of float16 vectors.

Each component of a vector v is rounded to one of 255 levels between the minimum and the maximum that it has
in the gallery, which gives c. The query is rounded to integers too, with more levels, so that the dot
products are integer arithmetic. The index stores the largest distance |v - c| over all vectors. By the
Cauchy-Schwarz inequality, the approximate score of a query of length 1 is off by at most this distance plus
the error from rounding the query. A photo can therefore be among the best k only if its approximate score
reaches the k-th best one minus twice that bound. These candidates, usually a few hundred, are scored again
with the original vectors.

Kept in place of FAISS' 8-bit codes, which took almost twice as long (docs/speed.md).
"""

import functools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float16, Int, Int8, Int32

from tpr_jax.data.batches import worker_threads
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json, write_whole

MIN_VECTORS = 4096  # below this, scoring all vectors is as fast
_BLOCK = 16384
_LEVELS = 254  # steps between the minimum and the maximum: codes from -127 to 127
_MAX_QUERY = 2**13  # largest integer of a rounded query, where products of this width fit in 32 bits
_SCORE_ERROR = 1e-6  # from rounding scores to float32, and from float32 sums without Numba


@dataclass(frozen=True)
class Codes:
    """Quantized vectors, memory-mapped; vector i is approximately `middle + step * numbers[i]`.

    Attributes:
      numbers: the integer codes.
      step: the distance between two levels of each component.
      error: the largest distance |v - c| from a vector to its rounded value.
      longest: the largest norm of a row of `numbers`.
    """

    numbers: Int8[np.ndarray, "n e"]
    step: Float[np.ndarray, " e"]
    error: float
    longest: float


def write_codes(vectors: Float16[np.ndarray, "n e"], folder: Path, stem: str) -> list[str]:
    """Quantizes vectors, and writes the codes and their error bounds.

    Returns:
      The names of the files, `{stem}.json` and `{stem}.npy`.

    Raises:
      UserError: a file cannot be written.
    """
    low, high = _component_range(vectors)
    middle, step = (low + high) / 2, (high - low) / _LEVELS
    bounds = {"error": 0.0, "longest": 0.0}

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:  # through a memory map, a full disk would kill the process
            header = {"descr": "|i1", "fortran_order": False, "shape": vectors.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(vectors), _BLOCK):
                block = vectors[start : start + _BLOCK].astype(np.float64)
                numbers = np.rint((block - middle) / np.where(step > 0, step, 1)).astype(np.int8)
                distances = np.linalg.norm(block - (middle + step * numbers), axis=1)
                norms = np.linalg.norm(numbers.astype(np.float32), axis=1)
                bounds["error"] = max(bounds["error"], float(distances.max()))
                bounds["longest"] = max(bounds["longest"], float(norms.max()))
                file.write(numbers.tobytes())

    write_whole(folder / f"{stem}.npy", write)
    write_json(folder / f"{stem}.json", {"step": step.tolist(), **bounds})
    return [f"{stem}.json", f"{stem}.npy"]


def open_codes(folder: Path, names: list[str]) -> Codes:
    """Memory-maps the files that `write_codes` wrote.

    Raises:
      UserError: a file is missing or damaged.
    """
    try:
        settings = json.loads((folder / names[0]).read_text())
        numbers = np.load(folder / names[1], mmap_mode="r")
        step = np.array(settings["step"], np.float64)
        error, longest = float(settings["error"]), float(settings["longest"])
        if not np.isfinite([*step, error, longest]).all():
            raise ValueError("a number is not finite")
        if numbers.dtype != np.int8 or numbers.shape[1:] != step.shape:
            raise ValueError(f"holds {numbers.dtype} {numbers.shape} for {len(step)} steps")
        # Compiles the kernel now, so that the first query does not wait for it.
        _multiply(numbers[:0], np.zeros(len(step), np.int32), np.empty(0, np.int32))
        return Codes(numbers, step, error, longest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder / names[0]}: damaged ({reason}); index the photos into a new folder"
        ) from error


def exact_top_k(
    codes: Codes,
    vectors: Float16[np.ndarray, "n e"],
    query: Float[np.ndarray, " e"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Returns the k rows with the highest scores q.v.

    Args:
      codes: the quantized vectors.
      vectors: the original vectors.
      query: a vector of length 1.
      k: number of rows.
      allowed: rows to choose from; None means all.

    Returns:
      Scores and rows, best first, ties by row; fewer than k if fewer rows are allowed.
    """
    k = min(k, len(vectors) if allowed is None else int(allowed.sum()))
    if k == 0:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    weights = query.astype(np.float64) * codes.step
    max_query = min(_MAX_QUERY, (2**31 - 1) // (_LEVELS // 2 * len(weights)))
    unit = float(np.abs(weights).max()) / max_query or 1.0
    rounded = np.rint(weights / unit).astype(np.int32)
    scores = _products(codes.numbers, rounded)
    if allowed is not None:
        scores[~allowed] = np.iinfo(np.int32).min
    bound = codes.error + float(np.linalg.norm(weights - unit * rounded)) * codes.longest
    kth_best = float(np.partition(scores, len(scores) - k)[len(scores) - k])
    rows = np.flatnonzero(scores >= kth_best - 2 * (bound + _SCORE_ERROR) / unit)
    if allowed is not None:
        rows = rows[allowed[rows]]
    exact_scores = rescore(vectors, query, rows)
    best = np.lexsort((rows, -exact_scores))[:k]
    return exact_scores[best], rows[best]


def rescore(
    vectors: Float16[np.ndarray, "n e"], query: Float[np.ndarray, " e"], rows: Int[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """Computes q.v of the given rows, in float64 so that equal vectors always tie."""
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = vectors[rows[start : start + _BLOCK]].astype(np.float32).astype(np.float64)
        scores[start : start + _BLOCK] = block @ query.astype(np.float64)
    return scores


def _products(numbers: Int8[np.ndarray, "n e"], query: Int32[np.ndarray, " e"]) -> Int32[np.ndarray, " n"]:
    """Computes the dot product of every row with the query, on all cores."""
    out, threads = np.empty(len(numbers), np.int32), worker_threads()
    size = max(1, min(4 * _BLOCK, -(-len(numbers) // threads)))
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(numbers), size)
        blocks = [(numbers[i : i + size], query, out[i : i + size]) for i in starts]
        list(pool.map(lambda block: _multiply(*block), blocks))
    return out


def _multiply_loop(numbers, query, out):
    """Reads rows from four places at once: a core that reads a single stream waits for its memory."""
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


def _multiply_numpy(numbers, query, out):
    """Multiplies in float32, whose rounding is far smaller than that of the 8-bit codes."""
    for start in range(0, len(numbers), _BLOCK):
        out[start : start + _BLOCK] = np.rint(
            numbers[start : start + _BLOCK].astype(np.float32) @ query.astype(np.float32)
        )


@functools.cache
def _kernel() -> Callable:
    """Returns the function that multiplies: Numba's, or without Numba NumPy's, which is ten times slower."""
    from tpr_jax.utils.numba_cache import njit, numba  # imports Numba, which small galleries do not need

    return njit(_multiply_loop, nogil=True) if numba is not None else _multiply_numpy


def _multiply(numbers, query, out):
    _kernel()(numbers, query, out)


def _component_range(vectors: Float16[np.ndarray, "n e"]) -> Float[np.ndarray, "2 e"]:
    """Returns the minimum and the maximum of each component."""
    low, high = np.full(vectors.shape[1], np.inf), np.full(vectors.shape[1], -np.inf)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    return np.stack([low, high])
