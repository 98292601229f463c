"""Measures time and memory of each option of `--rerank` at the size of ICFG-PEDES' test split.

    python -m tpr_jax.bench.rerank            # a Markdown table, each row from a process of its own

Each feature is that of a random person with noise, so that neighborhoods are as large as those of a model.
"""

import os
import sys
import time
from typing import NamedTuple

import numpy as np

from tpr_jax.bench import alone
from tpr_jax.bench.ranking import SIZES
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.errors import UserError
from tpr_jax.metrics import rerank

PLAIN = "plain"
IMAGE_NOISE, TEXT_NOISE = 2.0, 3.0  # in units of the distance between people


class Size(NamedTuple):
    """The number of captions, images and training captions; the number of identities, and the width."""

    queries: int = SIZES["ICFG-PEDES"].queries
    gallery: int = SIZES["ICFG-PEDES"].gallery
    bank: int = 34_674  # ICFG-PEDES' training captions
    identities: int = SIZES["ICFG-PEDES"].identities
    width: int = 512


def random_features(size: Size) -> rerank.Features:
    """Returns features of this size; image i has the captions i, i + gallery, and so on."""
    rng = np.random.default_rng(0)
    people = rng.standard_normal((size.identities, size.width), np.float32)

    def near(pids, noise):
        feats = people[pids] + noise * rng.standard_normal((len(pids), size.width), np.float32)
        return feats.astype(np.float32)

    gallery_pids = np.arange(size.gallery) % size.identities
    query_images = np.arange(size.queries) % size.gallery
    return rerank.Features(
        query=near(gallery_pids[query_images], TEXT_NOISE),
        query_images=query_images,
        query_pids=gallery_pids[query_images],
        gallery=near(gallery_pids, IMAGE_NOISE),
        gallery_pids=gallery_pids,
        bank=near(np.arange(size.bank) % size.identities, TEXT_NOISE),
    )


def time_option(name: str, size: Size) -> dict:
    """Scores one option with its default settings in this process, features to metrics.

    Args:
      name: a key of `rerank.OPTIONS`, or `PLAIN` for the cosines.
      size: the sizes.

    Returns:
      `seconds`, and `peak_bytes`, the process's peak resident memory, which includes libraries and features.
    """
    from tpr_jax.perf import memory

    features = random_features(size)
    start = time.perf_counter()
    if name == PLAIN:
        scores, pids = rerank.cosines(features.query, features.gallery), features.query_pids
    else:
        option = rerank.OPTIONS[name]
        scores, pids = option.rank(features, **option.grid[0])
    rerank.score_metrics(scores, pids, features.gallery_pids)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": memory.peaks({})["peak_memory_bytes"]}


def time_in_subprocess(name: str, size: Size) -> dict:
    """Calls `time_option` in a process of its own, whose peak memory is then that option's alone."""
    return alone.evaluate("tpr_jax.bench.rerank", f"time_option({name!r}, {size})")


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = arguments.Parser(
        prog="python -m tpr_jax.bench.rerank",
        description="Measures time and memory of rankings that are changed after training.",
        examples=("python -m tpr_jax.bench.rerank --options nnn,qb_norm",),
    )
    default = Size()
    parser.add_argument("--options", default="all", metavar="NAME,NAME", help="what to measure")
    for name, text in (
        ("queries", "captions"),
        ("gallery", "images"),
        ("bank", "training captions"),
        ("identities", "people"),
        ("width", "features per vector"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name), metavar="N", help=text)
    args = parser.parse_args(argv[1:])
    size = Size(*(getattr(args, name) for name in Size._fields))
    for name, value in size._asdict().items():
        if value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    names = [PLAIN, *rerank.parse_names(args.options, "--options")]
    print(
        f"{os.cpu_count()} cores, {size.queries:,} captions, {size.gallery:,} images, "
        f"{size.bank:,} training captions, width {size.width}\n"
    )
    timings = ((name, time_in_subprocess(name, size)) for name in names)
    rows = ([name, f"{one['seconds']:.1f}", f"{one['peak_bytes'] / 1e9:.2f}"] for name, one in timings)
    for line in alone.table_lines(["", "seconds", "peak memory, GB"], rows):
        print(line, flush=True)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
