"""Where the seconds of a train step or an encoder go on the CPU, by what of the model they are for.

    python -m tpr_jax.bench.profile [--write]

Profiles one run each of CASES with JAX's profiler and prints shares of the seconds; --write puts the table
into docs/speed.md. Two threads that work at a time share their seconds evenly, so that the shares add up to
the whole run. Weights and pictures are random.
"""

import collections
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tpr_jax.bench.__main__ import PAGE, say
from tpr_jax.bench.cases import Ready
from tpr_jax.bench.table import markdown
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.utils.files import write_text
from tpr_jax.utils.markdown import put

MARKER = "profile"
SAME = {"backbone": "vit_b_16", "dtype": "float32"}
CASES = {
    "DM-Adapter, step of 8": {"kind": "train_step", "config": "dm_adapter", "batch": 8, **SAME},
    "UP-Person, step of 8": {"kind": "train_step", "config": "up_person", "batch": 8, **SAME},
    "CSKT, step of 8": {"kind": "train_step", "config": "cskt", "batch": 8, **SAME},
    "DM-Adapter, step of 8, bfloat16": {
        "kind": "train_step", "config": "dm_adapter", "batch": 8, **SAME, "dtype": "bfloat16",
    },
    "16 photos": {"kind": "encoder", "tower": "vision", "batch": 16, **SAME},
    "one text of 77 ids": {"kind": "encoder", "tower": "text", "batch": 1, **SAME},
}  # fmt: skip

# What an operation is for, by its name in the program and by that of the line of the model it comes from: the
# first that fits.
PARTS = (
    ("products of the MLPs", r"dot|ynn", r"/block_\d+/mlp/"),
    ("products of attention with its weights", r"dot|ynn", r"/attn/(qkv|out)/"),
    ("products of attention's heads", r"dot|ynn", r"/attn/"),
    ("products of the method's parts", r"dot|ynn", r"/block_\d+/|prompts"),
    ("other products", r"dot|ynn", r""),
    ("attention besides: softmax, layouts", r"", r"/attn/"),
    ("MLPs besides: activations, sums", r"", r"/block_\d+/mlp/"),
    ("LayerNorm", r"", r"/(ln_[a-z0-9]+|beside_\w+/ln_\d)(/|$)"),
    ("the method's parts besides", r"", r"/beside_|/inside_|prompts|adapter"),
    ("reductions that the compiler splits in two", r"wrapped_reduce", r""),
    ("loss, optimizer and what else has no name", r"", r"^(?!.*(visual|text)/)"),
    ("between the blocks", r"", r""),
)


RUNS = "ThunkExecutor::Execute"  # the event of a thread that goes from operation to operation
SOON = 20_000.0  # nanoseconds between the end of such and what is noted of the operation before


class Span(NamedTuple):
    """An operation of the program at work, in nanoseconds."""

    name: str
    begin: float
    end: float


class Event(NamedTuple):
    """One of a trace: what a thread did between two moments, in nanoseconds."""

    thread: str
    name: str
    begin: float
    end: float
    of_program: bool


def spans(events: Iterable[Event]) -> list[Span]:
    """The operations of the program among a trace's events.

    One that goes on in other threads is over at the next event 'end: NAME', unless the thread which noted
    that went on with the operations behind it first: then where it began with them.
    """
    found, over, behind = [], {}, {}
    for event in sorted(events, key=lambda event: event.begin, reverse=True):
        if event.name.startswith("end: "):
            over[event.name.removeprefix("end: ")] = event
        elif event.name.startswith(RUNS):
            behind[event.thread] = [*behind.get(event.thread, []), event]
        elif event.of_program:
            end, noted = event.end, over.get(event.name)
            if noted:
                inner = [
                    run.begin
                    for run in behind.get(noted.thread, [])
                    if event.begin < run.begin and noted.begin - SOON < run.end <= noted.begin
                ]
                end = max(end, min([noted.begin, *inner]))
            found.append(Span(event.name, event.begin, end))
    return found[::-1]


def attributed(found: Iterable[Span]) -> dict[str, float]:
    """Seconds of each operation: those at work at the same moment share it evenly."""
    found = list(found)
    moments = sorted(
        [(span.begin, True, i) for i, span in enumerate(found)]
        + [(span.end, False, i) for i, span in enumerate(found)]
    )
    seconds, at_work, last = collections.Counter(), set(), 0.0
    for moment, begins, i in moments:
        for j in at_work:
            seconds[found[j].name] += (moment - last) / len(at_work) / 1e9
        last = moment
        (at_work.add if begins else at_work.discard)(i)
    return dict(seconds)


def origins(program: str) -> dict[str, str]:
    """Of each operation of a compiled program the name of what it comes from, as JAX noted it."""
    lines = re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', program, re.MULTILINE)
    return dict(reversed(lines))  # the first of a name is that of the program itself or as good


def part_of(operation: str, origin: str) -> str:
    """Which of PARTS an operation belongs to."""
    fits = (part for part, name, of in PARTS if re.match(name, operation) and re.search(of, origin))
    return next(fits)


def profile(ready: Ready) -> tuple[float, dict[str, float]]:
    """(seconds of a run, those of each part)."""
    import jax

    ready.once()
    with tempfile.TemporaryDirectory(prefix="tpr_jax_profile_") as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            ready.once()
            seconds = time.perf_counter() - began
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(path)).planes
        events = (
            Event(
                line.name,
                event.name,
                event.start_ns,
                event.start_ns + event.duration_ns,
                any(key == "hlo_op" for key, _ in event.stats),
            )
            for plane in planes
            for line in plane.lines
            for event in line.events
        )
        by_operation = attributed(spans(events))
    named, parts = origins(ready.text()), collections.Counter()
    for operation, own in by_operation.items():
        parts[part_of(operation, named.get(operation, ""))] += own
    return seconds, dict(parts)


def table(found: dict[str, tuple[float, dict[str, float]]]) -> str:
    """A line a part, a column a case, in percent of the case's seconds; what no operation took comes last."""
    lines = [["seconds", *(f"{seconds:.3g}" for seconds, _ in found.values())]]
    for part, _, _ in PARTS:
        shares = [100 * parts.get(part, 0.0) / seconds for seconds, parts in found.values()]
        lines.append([part, *(f"{share:.1f}" if share else "" for share in shares)])
    idle = [100 * (1 - sum(parts.values()) / seconds) for seconds, parts in found.values()]
    lines.append(["no operation at work", *(f"{share:.1f}" for share in idle)])
    return markdown(["percent of the seconds", *found], lines)


def run(argv: list[str]) -> None:
    """The command."""
    from tpr_jax.bench import subjects as bench_subjects

    parser = arguments.Parser("python -m tpr_jax.bench.profile", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    args = parser.parse_args(argv[1:])
    keep_freed_memory()  # as the commands do
    found = {}
    for case, subject in CASES.items():
        say(f"making ready: {case}")
        found[case] = profile(bench_subjects.make(subject))
    print(table(found))
    if args.write:
        write_text(PAGE, put(PAGE.read_text(encoding="utf-8"), MARKER, table(found)))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
