"""Subjects of `bench` in processes of their own that take turns, so that what else happens meets all alike.

    python -m tpr_jax.bench.worker '{"kind": "product", "dtype": "float32"}'

is such a process: it makes its subject ready, says so in a line of JSON, and times it for each line it reads.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tpr_jax.errors import UserError
from tpr_jax.utils.streams import print_any_text

TURN = 0.4  # seconds that a turn takes at least: what is quicker is repeated within it


def worker_main(subject: dict) -> None:
    """What the process does."""
    from tpr_jax.bench import subjects as bench_subjects
    from tpr_jax.perf import allocator, memory

    allocator.keep_freed_memory()  # as the commands do
    ready = bench_subjects.make(subject)
    ready.once()  # what happens once, as loading the program
    began = time.perf_counter()
    ready.once()
    repeats = max(1, round(TURN / (time.perf_counter() - began)))
    said = {"flops": ready.flops, "compile_seconds": ready.compile_seconds}
    print(json.dumps(said), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(repeats):
            ready.once()
        seconds = (time.perf_counter() - began) / repeats
        print(json.dumps({"seconds": seconds, **memory.peaks({})}), flush=True)


def measure(
    subjects: Sequence[dict], turns: int, say: Callable[[str], object] = lambda line: None
) -> list[dict]:
    """Times the subjects in turn: of each `seconds` of every turn, `flops`, `compile_seconds` and the peaks
    of memory, `error` instead of one that could not be made.

    Raises:
      UserError: a process ended amid its turns.
    """
    with contextlib.ExitStack() as stack:
        started = [_start(stack, subject, say) for subject in subjects]
        found = [
            {**subject, "error": said} if process is None else {**subject, **said, "seconds": []}
            for subject, (process, said) in zip(subjects, started, strict=True)
        ]
        running = [
            (process, row) for (process, _), row in zip(started, found, strict=True) if process is not None
        ]
        for turn in range(turns):
            for process, row in running if turn % 2 else reversed(running):
                answer = _ask(process)
                if answer is None:
                    raise UserError(f"the process that times {label(row)} ended early: see above")
                row["seconds"].append(answer.pop("seconds"))
                row.update(answer)
            say(f"turn {turn + 1} of {turns}")
    return found


def label(subject: dict) -> str:
    """A subject in a few words, with all that is not as usual."""
    named = ("config", "tower", "kind", "backbone", "dtype", "batch")
    others = [key for key in subject if key in ("gallery", "vectors", "devices") or "." in key]
    words = [str(subject[key]) for key in named if key in subject]
    return " ".join([*words, *(f"{key}={subject[key]}" for key in others)])


def environment(subject: dict) -> dict[str, str]:
    """That of a subject's process. One that asks for `devices` sees the CPU as that many."""
    # Several share the device, so none may take all its memory; and threads that have nothing to do sleep.
    found = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "OMP_WAIT_POLICY": "passive", **os.environ}
    if "devices" in subject:
        flags = f"{found.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={subject['devices']}"
        found |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
    return found


def median_seconds(row: dict) -> float:
    """The median of a row's seconds."""
    return statistics.median(row["seconds"])


def _start(stack: contextlib.ExitStack, subject: dict, say: Callable) -> tuple:
    """(the process, what it says of its subject), or (None, why there is none)."""
    say(f"making ready: {label(subject)}")
    command = [sys.executable, "-m", "tpr_jax.bench.worker", json.dumps(subject)]
    said = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said, "text": True}
    process = stack.enter_context(subprocess.Popen(command, **pipes, env=environment(subject)))
    stack.callback(process.stdin.close)
    line = process.stdout.readline()
    if not line:
        code = process.wait()
        said.seek(0)
        return None, (said.read().strip().splitlines() or [f"exit code {code}"])[-1]
    return process, json.loads(line)


def _ask(process: subprocess.Popen) -> dict | None:
    try:
        print("go", file=process.stdin, flush=True)
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return json.loads(line) if line else None


if __name__ == "__main__":
    print_any_text()
    worker_main(json.loads(sys.argv[1]))
