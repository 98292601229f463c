"""Trains or evaluates what a config describes.

    python -m tpr_jax.main --config configs/NAME.py[:DATASET] --workdir DIR [--mode train|eval]
                           [--config.KEY=VALUE ...]
                           [--coordinator HOST:PORT --num_processes N --process_id I]

The last line is for several processes as one run, where no cluster says so (SLURM, Open MPI, GKE and Cloud
TPU do); --peer_timeout SECONDS is how long they may take to come.

This file reads the command line; see `train/loop.py` for the run itself.
"""

# ruff: noqa: E402 (signals are caught before the imports that take seconds)

import sys

from tpr_jax.cli.exit import exit_on_signals, explain_and_exit, silence_native_logs, verdict

if __name__ == "__main__":
    exit_on_signals(sys.argv)

from pathlib import Path

from ml_collections import ConfigDict

from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_command
from tpr_jax.distributed import cluster, processes
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.utils import signals


def run(argv: list[str]) -> None:
    """Trains or evaluates what a command line says."""
    asked_for_help = {"-h", "--help"} & set(argv[1:])
    if asked_for_help or len(argv) == 1:
        print(__doc__.strip())
        raise SystemExit(0 if asked_for_help else 2)
    silence_native_logs()
    with signals.raise_stopped("stopped") as stopped_or:
        command = parse_command(argv)
        if command.config.debug:
            print("debug: a few small steps, to see that everything runs; the numbers say nothing")
        peers = cluster.find_here(command.coordinator, command.num_processes, command.process_id)
        keep_freed_memory()
        with processes.initialized(
            peers, command.peer_timeout, command.workdir, lambda error: verdict(stopped_or(error), argv)
        ):
            _run_here(command.config, command.workdir, command.mode)


def _run_here(config: ConfigDict, workdir: Path, mode: str) -> None:
    """Trains or evaluates as one of the processes of a run."""
    # Once more: JAX installs a SIGTERM handler of its own when processes initialize.
    with signals.raise_stopped("stopped"):
        # JAX and TensorFlow are imported only here, once the command line is known to be sound.
        from tpr_jax.train import agreement, loop, results

        mine = agreement.of_command(config_lib.to_plain(config), mode)
        agreement.check_same("command", mine, "start the same command on all")
        if mode == "eval":
            results.evaluate_run(config, workdir)
        else:
            loop.train(config, workdir)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
