"""The speed of a run relative to the peak of its chips, and a profile of a few of its steps."""

import contextlib
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import jax
from tqdm import tqdm

from tpr_jax.config import defaults as config_lib
from tpr_jax.distributed import processes
from tpr_jax.perf import chips, flops, memory
from tpr_jax.train.setup import Run

PROFILED = (10, 15)  # steps of this process: those before compile and fill caches


class Lap(NamedTuple):
    """The steps since the last logged one.

    Attributes:
      steps: the number of steps.
      seconds: the time that they took.
      waited: the part of it in which this process waited for its batches, seconds.
    """

    steps: int
    seconds: float
    waited: float


class Clock:
    """Times a run on the monotonic clock: all of it, and the steps since the last logged one."""

    def __init__(self):
        self._started = time.monotonic()
        self.restart_lap()

    def elapsed(self) -> float:
        """Returns the seconds since the clock was created, including evaluations."""
        return time.monotonic() - self._started

    def count_step(self) -> None:
        """Counts a step to the current lap."""
        self._steps += 1

    def lap(self) -> Lap:
        """Ends the current lap and starts the next one."""
        now = time.monotonic()
        lap = Lap(self._steps, now - self._lap_started, self._waited)
        self.restart_lap(now)
        return lap

    def restart_lap(self, now: float | None = None) -> None:
        """Drops the current lap and starts the next one."""
        self._lap_started = time.monotonic() if now is None else now
        self._steps, self._waited = 0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Counts the time within as waiting for input."""
        asked = time.monotonic()
        yield
        self._waited += time.monotonic() - asked

    @contextlib.contextmanager
    def pause(self) -> Generator[None, None, None]:
        """Excludes the time within, such as an evaluation, from the laps; then starts a new lap."""
        yield
        self.restart_lap()


class Throughput:
    """Computes the speed fields of a row of metrics.jsonl."""

    def __init__(self, run: Run):
        self._batch_size = run.config.batch_size
        products = flops.train_step(
            run.clip_config,
            run.method,
            run.config.batch_size,
            config_lib.loss_weights(run.config),
            run.heads,
            captions_per_image=run.config.captions_per_image,
            kept_patches=run.clip_config.kept_patches(run.config.patch_dropout),
        )
        self._flops_per_step = flops.total(products)["total"]
        peaks = [chips.peak(device.device_kind, run.config.dtype) for device in run.mesh.devices.flat]
        known = [peak for peak in peaks if peak is not None]
        self._peak = sum(known) if len(known) == len(peaks) else None

    def measure(self, lap: Lap) -> dict[str, float]:
        """Computes the throughput of a lap.

        Returns:
          - `examples_per_second`, `step_seconds`: of the whole run, all processes together.
          - `input_wait`: the fraction of the time that this process waited for its batches.
          - `model_flops_per_second`: the FLOPs of the method's matrix products (`perf.flops`) per second;
            rematerialization does not count.
          - `peak_share`: these as a fraction of the peak of all devices; if that is known.
          - `device_memory_bytes`: the peak memory of one of this process's devices; if they report it.
        """
        rate = self._flops_per_step * lap.steps / lap.seconds
        row = {
            "examples_per_second": lap.steps * self._batch_size / lap.seconds,
            "step_seconds": lap.seconds / lap.steps,
            "input_wait": lap.waited / lap.seconds,
            "model_flops_per_second": rate,
        }
        if self._peak is not None:
            row["peak_share"] = rate / self._peak
        if (peak := device_memory()) is not None:
            row["device_memory_bytes"] = peak
        return row


def device_memory() -> int | None:
    """Returns the peak memory of one of this process's devices, bytes; None if they do not report it."""
    peaks = [memory.device_peak(device) for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if len(known) == len(peaks) else None


def report_problem(line: str) -> None:
    """Prints a problem to stderr; any process may, not only the first."""
    prefix = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    tqdm.write(f"{prefix}{line}", file=sys.stderr)


class Profiler:
    """Writes a JAX profile of steps 10 to 15 into a folder, if enabled.

    Only the first process writes a profile, which covers its own devices.
    """

    def __init__(self, folder: Path, enabled: bool):
        self._folder = folder
        self._enabled = enabled and processes.is_first()
        self._running = False

    def step(self, number: int) -> contextlib.AbstractContextManager:
        """Returns the context of a training step, which names it in the profile."""
        if not self._running:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def after_step(self, steps: int, result) -> None:
        """Starts or ends the profile at its steps.

        Args:
          steps: the number of steps that this process has done.
          result: what the last one returned.
        """
        first, last = PROFILED
        if self._enabled and steps == first - 1:
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running and steps >= last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a profile that is running."""
        if not self._running:
            return
        self._running = False
        jax.profiler.stop_trace()
        first, last = PROFILED
        tqdm.write(
            f"profile: steps {first} to {last}, in {self._folder}: open it with "
            f"`pip install xprof && xprof --logdir {self._folder}`, or its .trace.json.gz at ui.perfetto.dev"
        )
