"""Time and memory of the metrics at the sizes of the benchmarks' test splits.

    python -m tpr_jax.bench.ranking            # a Markdown table, each line from a process of its own
    python -m tpr_jax.bench.ranking --large    # 200,000 x 200,000 besides: tens of minutes on two cores

Features are random: the counting takes the same time whatever they are.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

from tpr_jax.utils.streams import quiet_when_closed

SIZES = {  # queries, gallery, identities: the test splits
    "CUHK-PEDES": (6_156, 3_074, 1_000),
    "ICFG-PEDES": (19_848, 19_848, 1_000),
    "RSTPReid": (2_000, 1_000, 200),
}
LARGE = {"200,000 x 200,000": (200_000, 200_000, 50_000)}


def random_split(n_query: int, n_gallery: int, width: int, identities: int) -> tuple[np.ndarray, ...]:
    """Features of queries and of a gallery, and the identities of both, as `retrieval_metrics` takes them."""
    rng = np.random.default_rng(0)
    feats = [rng.standard_normal((n, width), np.float32) for n in (n_query, n_gallery)]
    return *feats, *(rng.permutation(np.arange(n) % identities) for n in (n_query, n_gallery))


def ranking(
    n_query: int, n_gallery: int, width: int = 512, identities: int = 1_000, repeats: int = 1
) -> dict:
    """Both directions of `n_query` texts by `n_gallery` images of `width` features, measured in this process.

    Returns `seconds` and `cpu_seconds` (user and system, of all threads) of the quickest repeat, the other
    repeats' in `all_seconds`, and `peak_bytes`, the process's highest resident memory so far, its libraries
    and the features included. A small ranking before the first repeat compiles what is compiled once.
    """
    from tpr_jax.metrics import retrieval as metrics
    from tpr_jax.perf import memory

    *feats, query_pids, gallery_pids = random_split(n_query, n_gallery, width, identities)
    metrics.retrieval_metrics(feats[0][:64], feats[1][:64], np.zeros(64, int), np.arange(64))
    taken = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        metrics.retrieval_metrics(*feats, query_pids, gallery_pids)
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    seconds, cpu_seconds = min(taken)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "all_seconds": [wall for wall, _ in taken],
        "peak_bytes": memory.peaks({})["peak_memory_bytes"],
    }


def alone(*args) -> dict:
    """`ranking(*args)` in a process of its own, so that the peak of its memory is its own."""
    call = f"import json; from tpr_jax.bench.ranking import ranking; print(json.dumps(ranking(*{args!r})))"
    done = subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="200,000 x 200,000 besides")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, width {args.width}, both directions; the quickest of {args.repeats}\n")
    print("| | texts | images | seconds | CPU seconds | peak memory, GB |\n|---|---|---|---|---|---|")
    for name, (queries, gallery, identities) in (SIZES | (LARGE if args.large else {})).items():
        repeats = 1 if name in LARGE else args.repeats
        got = alone(queries, gallery, args.width, identities, repeats)
        print(
            f"| {name} | {queries:,} | {gallery:,} | {got['seconds']:.2f} | {got['cpu_seconds']:.2f} "
            f"| {got['peak_bytes'] / 1e9:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    with quiet_when_closed():
        main()
