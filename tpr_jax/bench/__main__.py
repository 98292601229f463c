"""Measures the speed of every operation that a user waits for, relative to this machine's peak matmul rate.

    python -m tpr_jax.bench [--only SECTION,...] [--turns N] [--torch] [--workdir DIR] [--write]
                            [--tables_only]

Operations that are compared run in processes of their own that take turns, so that other load on the machine
affects all alike; the tables have medians and ranges over the turns. The operations of a train step are the
minimum that its method needs (`perf/flops.py`). The peak is the fastest of XLA, XLA with this project's
compiler options, NumPy and, with --torch, PyTorch. --torch also times the encoders of transformers' PyTorch
CLIPModel, a loop that encodes photos with it, and train steps of the same methods in plain PyTorch
(`requirements-torch.txt`). DIR/bench.json
(default: runs/bench) keeps every measurement; rerun the same command to measure what is missing. --write puts
the tables into docs/speed.md. Weights and images are random.
"""

import argparse
import itertools
import json
import os
import platform
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from tpr_jax.__main__ import COMMANDS
from tpr_jax.bench import input as bench_input
from tpr_jax.bench import worker
from tpr_jax.bench.ranking import SIZES
from tpr_jax.bench.table import render_tables
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.errors import UserError
from tpr_jax.perf import host
from tpr_jax.utils.files import write_json, write_text
from tpr_jax.utils.markdown import replace_section

# This process only lists the devices and leaves their memory to the workers.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

METHODS = ("dm_adapter", "up_person", "cskt")
DTYPES = ("float32", "bfloat16")
# Whether there is an accelerator, which small batches leave idle -> batches of the encoders, of train steps.
BATCHES = {False: ((1, 16, 64), (8, 16)), True: ((1, 64, 512), (64, 256))}
# Names of `models.config.NAMED` that fit the memory of a laptop.
BACKBONES = (
    *("ViT-B/32", "ViT-B/16", "ViT-L/14", "google/siglip-base-patch16-224"),
    "google/siglip2-so400m-patch14-384",
)
SECTIONS = ("encode", "train", "mini", "backbones", "input", "ranking", "checkpoint", "commands", "search")
PAGE, MARKER = Path("docs/speed.md"), "bench"

Groups = dict[str, list[dict]]  # name of a group -> its subjects, which take turns


def groups(section: str, torch: bool = False, accelerator: bool = False) -> Groups:
    """Returns the subjects of a section in the groups that take turns.

    Args:
      section: one of `SECTIONS`.
      torch: also time PyTorch's matrix products, encoders, train steps and loop over photos.
      accelerator: use batches for an accelerator.
    """
    encoder_batches, step_batches = BATCHES[accelerator]
    match section:
        case "encode":
            return _encoder_groups(encoder_batches, torch, accelerator)
        case "train":
            return _train_groups(step_batches, torch, accelerator)
        case "mini":
            return {f"mini {dtype}": _mini_subjects(dtype, torch, accelerator) for dtype in DTYPES}
        case "backbones":
            return {name: _backbone_subjects(name, accelerator) for name in BACKBONES}
        case "ranking":
            return {name: [{"kind": section, "of": name, **size._asdict()}] for name, size in SIZES.items()}
        case "checkpoint":
            state = {"kind": section, "config": "dm_adapter", "backbone": "vit_b_16"}
            return {"dm_adapter": [{**state, "does": does} for does in ("save", "restore")]}
        case "commands":
            modules = sorted({command.module for command in COMMANDS.values() if command.module})
            return {module: [{"kind": "command", "module": module}] for module in modules}
        case "search":
            return _search_groups(torch, accelerator)
    return {}  # the input pipeline has its own workers: see input.py


def _matmuls(dtype: str, torch: bool, accelerator: bool) -> list[dict]:
    """Returns the ways to multiply matrices, the fastest of which is the yardstick of a group."""
    ways = ["xla"] if accelerator else ["xla", "options", "numpy"]
    ways += ["torch"] if torch else []
    return [{"kind": "product", "dtype": dtype, "by": way} for way in ways]


def _encoders(backbone: str, dtype: str, tower: str, batches: Collection[int], torch: bool) -> list[dict]:
    kinds = ("encoder", "torch_encoder") if torch else ("encoder",)
    settings = {"tower": tower, "backbone": backbone, "dtype": dtype}
    return [{"kind": kind, **settings, "batch": batch} for batch in batches for kind in kinds]


def _train_steps(method: str, backbone: str, dtype: str, batch: int, torch: bool) -> list[dict]:
    kinds = ("train_step", "torch_train_step") if torch else ("train_step",)
    settings = {"config": method, "backbone": backbone, "dtype": dtype, "batch": batch}
    return [{"kind": kind, **settings} for kind in kinds]


def _encoder_groups(batches: Collection[int], torch: bool, accelerator: bool) -> Groups:
    return {
        f"{tower} {dtype}": [
            *_matmuls(dtype, torch, accelerator),
            *_encoders("vit_b_16", dtype, tower, batches, torch),
        ]
        for dtype in DTYPES
        for tower in ("vision", "text")
    }


def _train_groups(batches: Collection[int], torch: bool, accelerator: bool) -> Groups:
    return {
        f"{method} {dtype} {batch}": [
            *_matmuls(dtype, torch, accelerator),
            *_train_steps(method, "vit_b_16", dtype, batch, torch),
        ]
        for batch in batches
        for dtype in DTYPES
        for method in METHODS
    }


def _mini_subjects(dtype: str, torch: bool, accelerator: bool) -> list[dict]:
    return [
        *_matmuls(dtype, torch, accelerator),
        *_encoders("clip_mini", dtype, "vision", (64,), torch),
        *_encoders("clip_mini", dtype, "text", (64,), torch),
        *(step for method in METHODS for step in _train_steps(method, "clip_mini", dtype, 64, torch)),
    ]


def _backbone_subjects(name: str, accelerator: bool) -> list[dict]:
    dtype = "bfloat16" if accelerator else "float32"
    encoders = [_encoders(name, dtype, tower, (16,), False) for tower in ("vision", "text")]
    return [*itertools.chain(*encoders), *_train_steps("dm_adapter", name, dtype, 8, False)]


def _search_groups(torch: bool, accelerator: bool) -> Groups:
    searches = {f"{count:,} vectors": [{"kind": "search", "vectors": count}] for count in (50_000, 1_000_000)}
    query = {"kind": "query", "backbone": "vit_b_16", "vectors": 50_000}
    kinds = ("index", "torch_index") if torch else ("index",)
    photos = {"backbone": "vit_b_16", "photos": 4096 if accelerator else 128}  # several full batches
    return {
        **searches,
        "a sentence": [{**query, "dtype": dtype} for dtype in DTYPES],
        "photos": [{"kind": kind, **photos, "dtype": dtype} for dtype in DTYPES for kind in kinds],
    }


def measure(sections: list[str], turns: int, torch: bool, path: Path, say: Callable[[str], object]) -> dict:
    """Returns the report at `path` after measuring the groups that it lacks, saved after each group."""
    import jax

    report = read_report(path)
    for section in sections:
        rows = report["parts"].setdefault(section, {})
        for name, subjects in groups(section, torch, jax.default_backend() != "cpu").items():
            if name in rows and (not torch or len(rows[name]) == len(subjects)):
                continue
            say(f"{section}, {name}")
            rows[name] = worker.measure(subjects, turns, say)
            write_json(path, report)
        if section == "input" and not rows:
            say(section)
            workers = min(2, os.cpu_count() or 1)
            rates = bench_input.measure(2560, turns, workers, "torch" if torch else "plain")
            rows["pictures"] = [{"workers": workers, "rates": rates}]
            write_json(path, report)
    return report


def read_report(path: Path) -> dict:
    """Reads the report of earlier runs; an empty one if there is none.

    Raises:
      UserError: the file is damaged, or from another machine.
    """
    if not path.exists():
        return {"machine": describe_host(), "parts": {}}
    try:
        report = json.loads(path.read_text())
        machine = report["machine"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}): choose another --workdir") from error
    if machine != describe_host():
        raise UserError(f"{path}: is from another machine or other versions: choose another --workdir")
    return report


def describe_host() -> dict:
    """Returns what the timings depend on: device, cores and versions."""
    import jax

    device = jax.devices()[0]
    return {
        "device": host.device_name(device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def make_parser(
    module: str, description: str, examples: Sequence[str], sections: Collection[str]
) -> arguments.Parser:
    """Builds the parser of a benchmark command with these sections."""
    parser = arguments.Parser(
        prog=f"python -m {module}",
        description=description,
        examples=examples,
    )
    parser.add_argument("--only", default=",".join(sections), help="what to measure, separated by commas")
    parser.add_argument("--turns", type=int, default=5, help="how often each is timed")
    parser.add_argument(
        "--workdir", type=arguments.folder, default=Path("runs/bench"), help="keeps every measurement"
    )
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE}")
    parser.add_argument("--tables_only", action="store_true", help="print earlier measurements only")
    return parser


def selected_sections(args: argparse.Namespace, sections: Collection[str]) -> list[str]:
    """Returns the sections that --only names.

    Raises:
      UserError: a section is unknown, or --turns is below 1.
    """
    for section in args.only.split(","):
        if section not in sections:
            raise UserError(f"--only {section} is unknown: choose from {', '.join(sections)}")
    if args.turns < 1:
        raise UserError(f"--turns {args.turns}: must be at least 1")
    return args.only.split(",")


def say(line: str) -> None:
    """Prints a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = make_parser(
        "tpr_jax.bench",
        "Measures the speed of every operation that a user waits for, as a fraction of this machine's peak.",
        ("python -m tpr_jax.bench --only search,ranking", "python -m tpr_jax.bench --tables_only"),
        SECTIONS,
    )
    parser.add_argument("--torch", action="store_true", help="compare with PyTorch, which must be installed")
    args = parser.parse_args(argv[1:])
    sections = selected_sections(args, SECTIONS)
    path = args.workdir / "bench.json"
    report = read_report(path) if args.tables_only else measure(sections, args.turns, args.torch, path, say)
    text = render_tables(report)
    print(text)
    if args.write:
        write_text(PAGE, replace_section(PAGE.read_text(), MARKER, text))
    print(f"written to {path}")


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
