"""How fast a run is, beside what its chips could do, and a profile of a few of its steps."""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from tpr_jax.config import defaults as config_lib
from tpr_jax.distributed import processes
from tpr_jax.perf import chips, flops, memory

PROFILED = (10, 15)  # steps of this process: those before compile and fill what is filled once


def pace(config: ConfigDict, parts: dict) -> Callable[[int, float, float], dict]:
    """`measure(steps, seconds, waited)`: what a row of metrics.jsonl says of so many steps; `waited` of the
    seconds went by without a batch.

    - `examples_per_second`, `step_seconds`: of the whole run, all processes together
    - `input_wait`: the share of the time that this process waited for its batches
    - `model_flops_per_second`: the products that the method needs (`perf/flops.py`), by the time; what is
      computed again, to save memory, does not count
    - `peak_share`: these by what all devices could do at most; where that is known
    - `device_memory_bytes`: the most that one of this process' devices has held; where they keep account
    """
    needed = flops.total(
        flops.train_step(
            parts["clip_config"],
            parts["method"],
            config.batch_size,
            config_lib.loss_weights(config),
            parts["heads"],
        )
    )["total"]
    peaks = [chips.peak(device.device_kind, config.dtype) for device in parts["mesh"].devices.flat]

    def measure(steps: int, seconds: float, waited: float) -> dict:
        rate = needed * steps / seconds
        known = {"peak_share": rate / sum(peaks)} if None not in peaks else {}
        held = device_memory()
        return {
            "examples_per_second": steps * config.batch_size / seconds,
            "step_seconds": seconds / steps,
            "input_wait": waited / seconds,
            "model_flops_per_second": rate,
            **known,
            **({} if held is None else {"device_memory_bytes": held}),
        }

    return measure


def device_memory() -> int | None:
    """The most bytes that one of this process' devices has held so far; None where they keep no account."""
    held = [memory.device_peak(device) for device in jax.local_devices()]
    return max(held) if None not in held else None


def complain(line: str) -> None:
    """Says what is wrong, though not only the first process sees it."""
    who = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    tqdm.write(f"{who}{line}", file=sys.stderr)


def profiler(folder: Path, wanted: bool) -> tuple[Callable, Callable]:
    """(mark, close): where it is `wanted`, `mark(steps, result)` after each step, with how many this process
    has done and what the last one gives, writes a JAX profile of steps 10 to 15 into `folder`; `close` ends
    one that is not whole. The first process writes it, of its own devices.
    """
    first, last = PROFILED
    on = False

    def mark(steps: int, result) -> None:
        nonlocal on
        if wanted and steps == first - 1 and processes.is_first():
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(folder))
            on = True
        elif on and steps >= last:
            jax.block_until_ready(result)
            close()

    def close() -> None:
        nonlocal on
        if on:
            on = False
            jax.profiler.stop_trace()
            tqdm.write(
                f"profile: steps {first} to {last}, in {folder}: open it with "
                f"`pip install xprof && xprof --logdir {folder}`, or its .trace.json.gz at ui.perfetto.dev"
            )

    return mark, close
