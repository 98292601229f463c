"""How fast this machine does what a user waits for, beside the fastest product of matrices that it can do.

    python -m tpr_jax.bench [--only PART,...] [--turns N] [--torch] [--workdir DIR] [--write] [--tables_only]

What is compared runs in processes of its own that take turns, so that other work on the machine meets all
alike; medians and spreads over the turns. A train step's operations are those that its method cannot do
without (`perf/flops.py`). With --torch transformers' PyTorch CLIPModel takes turns with the encoders
(`requirements-torch.txt`). What has been measured stays in DIR/bench.json, by default in runs/bench: the same
command goes on with what is missing; --write puts the tables into docs/speed.md and the most asked for into
README.md. Weights and pictures are random.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from tpr_jax.__main__ import COMMANDS
from tpr_jax.bench import input as bench_input
from tpr_jax.bench import worker
from tpr_jax.bench.ranking import SIZES
from tpr_jax.bench.table import tables
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json, write_text
from tpr_jax.utils.markdown import put

# This process asks only what devices there are; their memory is for those that are timed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

METHODS = ("dm_adapter", "up_person", "cskt")
DTYPES = ("float32", "bfloat16")
# Of encoders, and of train steps, by whether there is an accelerator, which fewer rows would leave idle.
BATCHES = {False: ((1, 16, 64), (8, 16)), True: ((1, 64, 512), (64, 256))}
PARTS = ("encode", "train", "mini", "input", "ranking", "checkpoint", "commands", "search")
PAGE, MARKER = Path("docs/speed.md"), "bench"
FRONT, ON_FRONT = Path("README.md"), ("encode", "train", "search")


def groups(part: str, torch: bool = False, accelerator: bool = False) -> dict[str, list[dict]]:
    """The subjects of a part that take turns, by a name for each group."""
    encoded, trained = BATCHES[accelerator]
    best = {dtype: {"kind": "product", "dtype": dtype} for dtype in DTYPES}

    def encoders(backbone, dtype, tower, batches):
        kinds = ("encoder", "torch_encoder") if torch else ("encoder",)
        settings = {"tower": tower, "backbone": backbone, "dtype": dtype}
        return [{"kind": kind, **settings, "batch": batch} for batch in batches for kind in kinds]

    def step(method, backbone, dtype, batch):
        settings = {"backbone": backbone, "dtype": dtype, "batch": batch}
        return {"kind": "train_step", "config": method, **settings}

    if part == "encode":
        return {
            f"{tower} {dtype}": [best[dtype], *encoders("vit_b_16", dtype, tower, encoded)]
            for dtype in DTYPES
            for tower in ("vision", "text")
        }
    if part == "train":
        return {
            f"{method} {dtype} {batch}": [best[dtype], step(method, "vit_b_16", dtype, batch)]
            for batch in trained
            for dtype in DTYPES
            for method in METHODS
        }
    if part == "mini":
        return {
            f"mini {dtype}": [
                best[dtype],
                *encoders("clip_mini", dtype, "vision", (64,)),
                *encoders("clip_mini", dtype, "text", (64,)),
                *(step(method, "clip_mini", dtype, 64) for method in METHODS),
            ]
            for dtype in DTYPES
        }
    if part == "ranking":
        sizes = ("queries", "gallery", "identities")
        return {
            name: [{"kind": part, "of": name, **dict(zip(sizes, given, strict=True))}]
            for name, given in SIZES.items()
        }
    if part == "checkpoint":
        state = {"kind": part, "config": "dm_adapter", "backbone": "vit_b_16"}
        return {"dm_adapter": [{**state, "does": does} for does in ("save", "restore")]}
    if part == "commands":
        modules = {module for module, _, _ in COMMANDS.values() if module}
        return {module: [{"kind": "command", "module": module}] for module in sorted(modules)}
    if part == "search":
        queries = [
            {"kind": "query", "backbone": "vit_b_16", "dtype": dtype, "vectors": 50_000} for dtype in DTYPES
        ]
        found = {f"{count:,} vectors": [{"kind": part, "vectors": count}] for count in (50_000, 1_000_000)}
        return {**found, "a sentence": queries}
    return {}  # the input pipeline takes turns in a way of its own


def measure(parts: list[str], turns: int, torch: bool, path: Path, say: Callable[[str], object]) -> dict:
    """What `path` holds, with what it lacks measured and added to it, group by group."""
    import jax

    report = read(path)
    for part in parts:
        rows = report["parts"].setdefault(part, {})
        for name, subjects in groups(part, torch, jax.default_backend() != "cpu").items():
            if name in rows and (not torch or len(rows[name]) == len(subjects)):
                continue
            say(f"{part}, {name}")
            rows[name] = worker.measure(subjects, turns, say)
            write_json(path, report)
        if part == "input" and not rows:
            say(part)
            workers = min(2, os.cpu_count() or 1)
            found = bench_input.measure(2560, turns, workers, "torch" if torch else "plain")
            rows["pictures"] = [{"workers": workers, "rates": found}]
            write_json(path, report)
    return report


def read(path: Path) -> dict:
    """What was measured before on this machine, or nothing.

    Raises:
      UserError: the file is damaged, or from another machine.
    """
    if not path.exists():
        return {"machine": machine(), "parts": {}}
    try:
        report = json.loads(path.read_text())
        there = report["machine"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}): take another --workdir") from error
    if there != machine():
        raise UserError(f"{path}: is of another machine or other versions: take another --workdir")
    return report


def machine() -> dict:
    """What the numbers depend on."""
    import jax

    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    """The name of the CPU, and of the units for small numbers that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    units = [name for name in ("amx_bf16", "avx512_bf16", "avx512f") if name in fields.get("flags", "")]
    return " ".join([fields.get("model name", platform.machine()), *(f"with {unit}" for unit in units[:1])])


def command_line(module: str, description: str, parts: Collection[str]) -> arguments.Parser:
    """What every bench can be told: which of its `parts`, how often, where, and what to do with it."""
    parser = arguments.Parser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(parts), help="which parts, separated by commas")
    parser.add_argument("--turns", type=int, default=5, help="how often each is timed")
    parser.add_argument("--workdir", type=arguments.folder, default=Path("runs/bench"))
    parser.add_argument("--write", action="store_true", help=f"the tables into {PAGE}")
    parser.add_argument("--tables_only", action="store_true", help="of what was measured before")
    return parser


def chosen(args: argparse.Namespace, parts: Collection[str]) -> list[str]:
    """The parts that --only names.

    Raises:
      UserError: there is no such part, or --turns is no number of turns.
    """
    for part in args.only.split(","):
        if part not in parts:
            raise UserError(f"--only {part} is unknown: known are {', '.join(parts)}")
    if args.turns < 1:
        raise UserError(f"--turns {args.turns}: must be at least 1")
    return args.only.split(",")


def say(line: str) -> None:
    """Of what is being done, to the terminal."""
    print(line, file=sys.stderr, flush=True)


def run(argv: list[str]) -> None:
    """The command."""
    parser = command_line("tpr_jax.bench", __doc__, PARTS)
    parser.add_argument("--torch", action="store_true", help="beside PyTorch")
    args = parser.parse_args(argv[1:])
    parts = chosen(args, PARTS)
    path = args.workdir / "bench.json"
    report = read(path) if args.tables_only else measure(parts, args.turns, args.torch, path, say)
    text = tables(report)
    print(text)
    if args.write:
        for page, wanted in ((PAGE, PARTS), (FRONT, ON_FRONT)):
            write_text(page, put(page.read_text(), MARKER, tables(report, wanted)))
    print(f"written to {path}")


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
