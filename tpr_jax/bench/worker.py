"""Times the subjects of `bench` in worker processes that take turns.

    python -m tpr_jax.bench.worker '{"kind": "product", "dtype": "float32"}'

runs one worker: it builds its subject, reports that as a line of JSON, and times the subject once for each
line that it reads from stdin. Taking turns lets other load on the machine affect all subjects alike.
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

MIN_TURN_SECONDS = 0.4  # faster subjects are repeated within a turn
PER_TURN = ("seconds", "cpu_seconds")  # what is kept of each turn


def worker_main(subject: dict) -> None:
    """Builds a subject and answers each line on stdin with one timing."""
    from tpr_jax.bench import subjects
    from tpr_jax.perf import allocator, memory

    allocator.keep_freed_memory()  # as the commands do
    case = subjects.make_case(subject)
    case.run()  # warm-up: the first run also loads the program
    start = time.perf_counter()
    case.run()
    repeats = max(1, round(MIN_TURN_SECONDS / (time.perf_counter() - start)))
    print(json.dumps({"flops": case.flops, "compile_seconds": case.compile_seconds}), flush=True)
    for _ in sys.stdin:
        start, cpu_start = time.perf_counter(), _cpu_seconds()
        for _ in range(repeats):
            case.run()
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu_start
        timing = {"seconds": seconds / repeats, "cpu_seconds": cpu / repeats}
        print(json.dumps({**timing, **memory.peaks({})}), flush=True)


def _cpu_seconds() -> float:
    """Returns the CPU time so far of all threads and of finished child processes."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def measure(
    subjects: Sequence[dict], turns: int, say: Callable[[str], object] = lambda line: None
) -> list[dict]:
    """Times the subjects in turn, each turn in the reverse order of the one before.

    Args:
      subjects: what to time; see `subjects.py`.
      turns: how often each is timed.
      say: called with each line of progress.

    Returns:
      One row per subject: the subject's keys, `flops`, `compile_seconds`, `seconds` and `cpu_seconds` (one
      per turn) and peak memory in bytes; or the subject's keys and `error` if it could not be built.

    Raises:
      UserError: a worker ended before its last turn.
    """
    with contextlib.ExitStack() as stack:
        rows, running = [], []
        for subject in subjects:
            process, report = _start(stack, subject, say)
            rows.append({**subject, **report})
            if process is not None:
                rows[-1] |= {name: [] for name in PER_TURN}
                running.append((process, rows[-1]))
        for turn in range(turns):
            for process, row in running if turn % 2 else reversed(running):
                timing = _request_timing(process)
                if timing is None:
                    raise UserError(f"the process that times {describe(row)} ended early: see above")
                for name in PER_TURN:
                    row[name].append(timing.pop(name))
                row.update(timing)
            say(f"turn {turn + 1} of {turns}")
    return rows


def describe(subject: dict) -> str:
    """Names a subject for progress lines, with every setting that is not a default."""
    keys = ("config", "tower", "kind", "by", "backbone", "dtype", "batch")
    words = [str(subject[key]) for key in keys if key in subject]
    settings = [key for key in subject if key in ("gallery", "vectors", "photos", "devices") or "." in key]
    return " ".join([*words, *(f"{key}={subject[key]}" for key in settings)])


def worker_environment(subject: dict) -> dict[str, str]:
    """Returns a worker's environment variables; `devices` in the subject forces that many CPU devices."""
    # The workers share the device, so none may preallocate its memory; idle threads sleep.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "OMP_WAIT_POLICY": "passive", **os.environ}
    if "devices" in subject:
        devices = f"--xla_force_host_platform_device_count={subject['devices']}"
        flags = f"{environment.get('XLA_FLAGS', '')} {devices}".strip()
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return environment


def median_seconds(row: dict) -> float:
    """Returns the median over a row's turns."""
    return statistics.median(row["seconds"])


def _start(stack: contextlib.ExitStack, subject: dict, say: Callable) -> tuple[subprocess.Popen | None, dict]:
    """Starts a worker; returns (process, its report), or None and the last line of its error as `error`."""
    say(f"building: {describe(subject)}")
    command = [sys.executable, "-m", "tpr_jax.bench.worker", json.dumps(subject)]
    stderr = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115 (entered into the stack)
    environment, pipe = worker_environment(subject), subprocess.PIPE
    # A session of its own: Ctrl-C reaches only this process, which then ends the worker.
    process = subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=stderr,
        text=True,
        env=environment,
        start_new_session=True,
    )
    stack.enter_context(process)
    assert process.stdin is not None and process.stdout is not None  # pipes
    stack.callback(process.stdin.close)
    line = process.stdout.readline()
    if not line:
        code = process.wait()
        stderr.seek(0)
        return None, {"error": (stderr.read().strip().splitlines() or [f"exit code {code}"])[-1]}
    return process, json.loads(line)


def _request_timing(process: subprocess.Popen) -> dict | None:
    """Asks a worker for one timing; None if it has ended."""
    assert process.stdout is not None  # a pipe
    try:
        print("go", file=process.stdin, flush=True)
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return json.loads(line) if line else None


if __name__ == "__main__":
    print_any_text()
    worker_main(json.loads(sys.argv[1]))
