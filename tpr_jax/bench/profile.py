"""Attributes the run time of train steps and encoders on the CPU to the parts of the model.

    python -m tpr_jax.bench.profile [--write]

Runs each of `SUBJECTS` once under JAX's profiler and prints percentages of its run time; --write puts the
table into docs/speed.md. Operations that run at the same moment share it evenly, so that the percentages add
up to the whole run. Weights and images are random.
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
from tpr_jax.bench.models import Case
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.utils import markdown
from tpr_jax.utils.files import write_text

MARKER = "profile"
VIT_FLOAT32 = {"backbone": "vit_b_16", "dtype": "float32"}
STEP = {"kind": "train_step", "batch": 8, **VIT_FLOAT32}
SUBJECTS = {
    "DM-Adapter, batch 8": {**STEP, "config": "dm_adapter"},
    "UP-Person, batch 8": {**STEP, "config": "up_person"},
    "CSKT, batch 8": {**STEP, "config": "cskt"},
    "DM-Adapter, batch 8, bfloat16": {**STEP, "config": "dm_adapter", "dtype": "bfloat16"},
    "16 images": {"kind": "encoder", "tower": "vision", "batch": 16, **VIT_FLOAT32},
    "one text of 77 tokens": {"kind": "encoder", "tower": "text", "batch": 1, **VIT_FLOAT32},
}

# (category, pattern of the HLO instruction's name, pattern of its `op_name`); the first match counts.
CATEGORIES = (
    ("MLP matmuls", r"dot|ynn", r"/block_\d+/mlp/"),
    ("attention projection matmuls", r"dot|ynn", r"/attn/(qkv|out)/"),
    ("attention head matmuls", r"dot|ynn", r"/attn/"),
    ("adapter matmuls", r"dot|ynn", r"/block_\d+/|prompts"),
    ("other matmuls", r"dot|ynn", r""),
    ("other attention operations: softmax, layouts", r"", r"/attn/"),
    ("other MLP operations: activations, sums", r"", r"/block_\d+/mlp/"),
    ("LayerNorm", r"", r"/(ln_[a-z0-9]+|beside_\w+/ln_\d)(/|$)"),
    ("other adapter operations", r"", r"/beside_|/inside_|prompts|adapter"),
    ("reductions that the compiler splits in two", r"wrapped_reduce", r""),
    ("loss, optimizer and operations without a name", r"", r"^(?!.*(visual|text)/)"),
    ("between the blocks", r"", r""),
)

EXECUTE = "ThunkExecutor::Execute"  # the event of a thread that runs one operation after the other
SLACK = 20_000.0  # nanoseconds allowed between the end of such an event and the "end: NAME" event


class Span(NamedTuple):
    """The time in which one HLO instruction ran, in nanoseconds."""

    name: str
    begin: float
    end: float


class Event(NamedTuple):
    """One event of a trace, in nanoseconds; `is_hlo` marks instructions of the compiled program."""

    thread: str
    name: str
    begin: float
    end: float
    is_hlo: bool


class Profile(NamedTuple):
    """One profiled run: wall time, and the share of each category in it, in seconds."""

    seconds: float
    by_category: dict[str, float]


def operation_spans(events: Iterable[Event]) -> list[Span]:
    """Returns when the program's instructions ran.

    An instruction that other threads finish is over at the next event "end: NAME". The thread that records
    that event may have run later instructions first; the instruction was then over when it began with them.
    """
    spans, end_events, executions = [], {}, {}
    for event in sorted(events, key=lambda event: event.begin, reverse=True):
        if event.name.startswith("end: "):
            end_events[event.name.removeprefix("end: ")] = event
        elif event.name.startswith(EXECUTE):
            executions[event.thread] = [*executions.get(event.thread, []), event]
        elif event.is_hlo:
            end, end_event = event.end, end_events.get(event.name)
            if end_event:
                later = [
                    execution.begin
                    for execution in executions.get(end_event.thread, [])
                    if event.begin < execution.begin
                    and end_event.begin - SLACK < execution.end <= end_event.begin
                ]
                end = max(end, min([end_event.begin, *later]))
            spans.append(Span(event.name, event.begin, end))
    return spans[::-1]


def seconds_by_operation(spans: Iterable[Span]) -> dict[str, float]:
    """Returns the seconds of each instruction; instructions that run at the same moment share it evenly."""
    spans = list(spans)
    boundaries = sorted(
        [(span.begin, True, i) for i, span in enumerate(spans)]
        + [(span.end, False, i) for i, span in enumerate(spans)]
    )
    seconds: dict[str, float] = collections.defaultdict(float)
    running, last = set(), 0.0
    for time_ns, begins, i in boundaries:
        for j in running:
            seconds[spans[j].name] += (time_ns - last) / len(running) / 1e9
        last = time_ns
        (running.add if begins else running.discard)(i)
    return dict(seconds)


def op_names(hlo_text: str) -> dict[str, str]:
    """Returns the `op_name` metadata of each instruction of a compiled program."""
    pairs = re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', hlo_text, re.MULTILINE)
    return dict(reversed(pairs))  # the first instruction of a name counts


def category_of(instruction: str, op_name: str) -> str:
    """Returns the category of an HLO instruction."""
    return next(
        category
        for category, name_pattern, op_pattern in CATEGORIES
        if re.match(name_pattern, instruction) and re.search(op_pattern, op_name)
    )


def profile(case: Case) -> Profile:
    """Profiles one run of a benchmark."""
    import jax

    case.run()
    with tempfile.TemporaryDirectory(prefix="tpr_jax_profile_") as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            case.run()
            seconds = time.perf_counter() - start
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
        by_operation = seconds_by_operation(operation_spans(events))
    names = op_names(case.hlo_text())
    by_category: dict[str, float] = collections.defaultdict(float)
    for instruction, operation_seconds in by_operation.items():
        by_category[category_of(instruction, names.get(instruction, ""))] += operation_seconds
    return Profile(seconds, dict(by_category))


def render_table(profiles: dict[str, Profile]) -> str:
    """Renders one row per category and one column per subject, in percent of its run time."""
    rows = [["seconds", *(f"{profile.seconds:.3g}" for profile in profiles.values())]]
    for category, _, _ in CATEGORIES:
        percents = [100 * p.by_category.get(category, 0.0) / p.seconds for p in profiles.values()]
        rows.append([category, *(f"{percent:.1f}" if percent else "" for percent in percents)])
    idle = [100 * (1 - sum(p.by_category.values()) / p.seconds) for p in profiles.values()]
    rows.append(["idle", *(f"{percent:.1f}" for percent in idle)])
    return markdown.table(["percent of the run time", *profiles], rows)


def run(argv: list[str]) -> None:
    """Runs the command."""
    from tpr_jax.bench import subjects

    parser = arguments.Parser(
        "python -m tpr_jax.bench.profile",
        description="Attributes the run time of train steps and encoders to the parts of the model.",
        examples=("python -m tpr_jax.bench.profile",),
    )
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE}")
    args = parser.parse_args(argv[1:])
    keep_freed_memory()  # as the commands do
    profiles = {}
    for name, subject in SUBJECTS.items():
        say(f"building: {name}")
        profiles[name] = profile(subjects.make_case(subject))
    text = render_table(profiles)
    print(text)
    if args.write:
        write_text(PAGE, markdown.replace_section(PAGE.read_text(encoding="utf-8"), MARKER, text))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
