"""Trains or evaluates a model as a config describes; `--help` shows the command line.

This file reads the command line; see `train/loop.py` for the run itself.
"""

import sys

from tpr_jax.cli.exit import exit_on_signals, explain_and_exit, silence_native_logs, verdict

if __name__ == "__main__":
    exit_on_signals(sys.argv)  # before the imports that take seconds

from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import Command, parse_command
from tpr_jax.distributed import cluster, processes
from tpr_jax.perf import compilation_cache
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.train import arguments
from tpr_jax.utils import signals


def run(argv: list[str]) -> None:
    """Trains or evaluates as the command line says."""
    asked_for_help = {"-h", "--help"} & set(argv[1:])
    if asked_for_help or len(argv) == 1:
        arguments.help_parser().print_help()
        raise SystemExit(0 if asked_for_help else 2)
    silence_native_logs()
    with signals.raise_stopped("stopped") as stopped_or:
        command = parse_command(argv)
        names, sizes = arguments.rerank_names(command), arguments.vector_sizes(command)
        if command.config.debug:
            print("debug: a few small steps, to check that everything runs; the scores are meaningless")
        peers = cluster.find_here(command.coordinator, command.num_processes, command.process_id)
        keep_freed_memory()
        (compilation_cache.enable if command.compilation_cache else compilation_cache.disable)()
        with processes.initialized(
            peers, command.peer_timeout, command.workdir, lambda error: verdict(stopped_or(error), argv)
        ):
            _run_here(command, names, sizes)


def _run_here(command: Command, rerank: list[str], sizes: list[int]) -> None:
    """Trains or evaluates as one of the processes of a run.

    Args:
      command: the command line.
      rerank: the names in --rerank.
      sizes: the sizes in --vectors.
    """
    config, workdir = command.config, command.workdir
    # Installed again: JAX installs a SIGTERM handler of its own when processes initialize.
    with signals.raise_stopped("stopped"):
        # JAX and TensorFlow are imported only here, once the command line is known to be valid.
        from tpr_jax.train import agreement, eval_run, loop

        mine = agreement.of_command(config_lib.to_plain(config), command.mode, rerank, sizes)
        agreement.check_same("command", mine, "start the same command on all")
        if command.mode == "eval":
            eval_run.evaluate_run(config, workdir, initial=command.initial, rerank=rerank, vectors=sizes)
        else:
            loop.train(config, workdir)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
