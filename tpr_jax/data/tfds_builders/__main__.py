"""Runs `python -m tpr_jax.data.tfds_builders DATASET --manual_dir DIR --data_dir OUT`; see `common.py`."""

import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Generator

from tpr_jax.cli.exit import exit_code, explain_and_exit, verdict
from tpr_jax.cli.parser import Parser, path
from tpr_jax.data.datasets import DATASETS
from tpr_jax.errors import UserError
from tpr_jax.utils.plural import counted
from tpr_jax.utils.streams import suppress_stderr

BUILDERS = {name: dataset.tfds.builder for name, dataset in DATASETS.items() if dataset.tfds}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 after one line on stderr."""
    return exit_code(run, ["tfds_builders", *(sys.argv[1:] if argv is None else argv)], explain)


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: an argument is wrong, or the data set cannot be read.
    """
    parser = Parser(
        prog="python -m tpr_jax.data.tfds_builders",
        description="Builds a data set as a TensorFlow Dataset, in sharded records.",
        examples=(
            "python -m tpr_jax.data.tfds_builders cuhk_pedes --manual_dir data/CUHK-PEDES --data_dir tfds",
        ),
    )
    parser.add_argument("dataset", choices=sorted(BUILDERS), help="the data set")
    parser.add_argument("--manual_dir", type=path, required=True, help="the data set's folder")
    parser.add_argument(
        "--data_dir", type=path, required=True, help="where the records go: a folder or a bucket"
    )
    parser.add_argument(
        "--config", default="sized", choices=("sized", "original"), help="the size of the photos"
    )
    parser.add_argument(
        "--beam",
        type=int,
        default=0,
        metavar="N",
        help="run on Apache Beam, with N processes on this machine; default: 0, without Beam",
    )
    args = parser.parse_args(argv[1:])
    # Imported only now, because the builders import TensorFlow.
    module = importlib.import_module(f"tpr_jax.data.tfds_builders.{args.dataset}")
    import tensorflow_datasets as tfds

    builder = getattr(module, BUILDERS[args.dataset])(data_dir=args.data_dir, config=args.config)
    settings = tfds.download.DownloadConfig(manual_dir=args.manual_dir)
    if args.beam:
        builder.use_beam, settings.beam_options = True, _beam_options(args.beam)
    with _silence_child_stderr() if args.beam else contextlib.nullcontext():
        builder.download_and_prepare(download_config=settings)
    for name, split in builder.info.splits.items():
        print(f"{name}: {counted(split.num_examples, 'image')} in {counted(split.num_shards, 'file')}")
    print(f"written: {builder.data_path}")


def explain(error: BaseException) -> tuple[int, str]:
    """Maps an error to (exit code, line to print) as `cli.exit.verdict` does, those of Beam's workers too."""
    if isinstance(error, RuntimeError):
        # Beam appends the failing step, and its workers pass on a traceback as text.
        messages = re.findall(r"UserError: (.*?)(?: \[while running .*)?$", str(error), re.MULTILINE)
        return (2, f"error: {messages[-1]}") if messages else (1, "")
    if isinstance(error, UserError):
        return 2, "error: " + re.sub(r" \[while running .*", "", str(error))
    return verdict(error, sys.argv)


def _beam_options(workers: int):
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "--beam needs Apache Beam: pip install -r requirements-beam.txt in a separate environment"
        ) from error
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # `main` reports the error in one line
    mode = "multi_processing" if workers > 1 else "in_memory"
    return PipelineOptions(
        [
            "--runner=DirectRunner",
            f"--direct_num_workers={workers}",
            f"--direct_running_mode={mode}",
            "--default_sdk_harness_log_level=CRITICAL",
        ]
    )


@contextlib.contextmanager
def _silence_child_stderr() -> Generator[None, None, None]:
    """Drops what Beam's workers write to stderr: logs and tracebacks, whatever log level is set."""
    before = sys.stderr
    try:
        with suppress_stderr() as own, os.fdopen(os.dup(own), "w", buffering=1) as sys.stderr:
            yield
    finally:
        sys.stderr = before


if __name__ == "__main__":
    explain_and_exit(run, sys.argv, explain)
