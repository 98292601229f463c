"""Measures time and memory of the retrieval metrics at the sizes of the benchmarks' test splits.

    python -m tpr_jax.bench.ranking            # a Markdown table, each row from a process of its own
    python -m tpr_jax.bench.ranking --large    # also 200,000 x 200,000: tens of minutes on two cores

The features are random: the run time does not depend on their values.
"""

import os
import sys
import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from tpr_jax.bench import alone
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit


class SplitSize(NamedTuple):
    """The sizes of a test split."""

    queries: int
    gallery: int
    identities: int


SIZES = {
    "CUHK-PEDES": SplitSize(6_156, 3_074, 1_000),
    "ICFG-PEDES": SplitSize(19_848, 19_848, 1_000),
    "RSTPReid": SplitSize(2_000, 1_000, 200),
}
LARGE = {"200,000 x 200,000": SplitSize(200_000, 200_000, 50_000)}


def random_split(
    n_query: int, n_gallery: int, width: int, identities: int
) -> tuple[
    Float32[np.ndarray, "q e"], Float32[np.ndarray, "g e"], Int64[np.ndarray, " q"], Int64[np.ndarray, " g"]
]:
    """Returns random features and identities of queries and gallery, as `retrieval_metrics` takes them."""
    rng = np.random.default_rng(0)
    query_feats, gallery_feats = (rng.standard_normal((n, width), np.float32) for n in (n_query, n_gallery))
    query_pids, gallery_pids = (rng.permutation(np.arange(n) % identities) for n in (n_query, n_gallery))
    return query_feats, gallery_feats, query_pids, gallery_pids


def time_ranking(
    n_query: int, n_gallery: int, width: int = 512, identities: int = 1_000, repeats: int = 1
) -> dict:
    """Times the metrics of `n_query` texts and `n_gallery` images in this process, both directions.

    Compiles with a small ranking first.

    Returns:
      `seconds` and `cpu_seconds` (user and system time of all threads) of the fastest repeat, `all_seconds`
      of every repeat, and `peak_bytes`, the process's peak resident memory so far, which includes libraries
      and features.
    """
    from tpr_jax.metrics import retrieval as metrics
    from tpr_jax.perf import memory

    split = random_split(n_query, n_gallery, width, identities)
    metrics.retrieval_metrics(split[0][:64], split[1][:64], np.zeros(64, int), np.arange(64))
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        metrics.retrieval_metrics(*split)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    seconds, cpu_seconds = min(times)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "all_seconds": [wall for wall, _ in times],
        "peak_bytes": memory.peaks({})["peak_memory_bytes"],
    }


def time_in_subprocess(size: SplitSize, width: int, repeats: int) -> dict:
    """Calls `time_ranking` in a process of its own, whose peak memory is then the ranking's alone."""
    call_args = (size.queries, size.gallery, width, size.identities, repeats)
    return alone.evaluate("tpr_jax.bench.ranking", f"time_ranking{call_args}")


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = arguments.Parser(
        prog="python -m tpr_jax.bench.ranking",
        description="Measures time and memory of the retrieval metrics at the sizes of benchmarks.",
        examples=("python -m tpr_jax.bench.ranking --repeats 5",),
    )
    parser.add_argument("--large", action="store_true", help="also 200,000 x 200,000")
    parser.add_argument("--width", type=int, default=512, help="features per vector")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size; the fastest counts")
    args = parser.parse_args(argv[1:])
    print(f"{os.cpu_count()} cores, width {args.width}, both directions, fastest of {args.repeats} runs\n")
    header = ["", "texts", "images", "seconds", "CPU seconds", "peak memory, GB"]
    sizes = SIZES | (LARGE if args.large else {})
    rows = (_measured_row(name, size, args.width, args.repeats) for name, size in sizes.items())
    for line in alone.table_lines(header, rows):
        print(line)


def _measured_row(name: str, size: SplitSize, width: int, repeats: int) -> list[str]:
    timing = time_in_subprocess(size, width, 1 if name in LARGE else repeats)
    numbers = [timing["seconds"], timing["cpu_seconds"], timing["peak_bytes"] / 1e9]
    return [name, f"{size.queries:,}", f"{size.gallery:,}", *(f"{number:.2f}" for number in numbers)]


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
