"""Runs `python -m tpr_jax.data.tfds_builders DATASET --manual_dir DIR --data_dir OUT`; see `common.py`."""

import argparse
import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator

from tpr_jax.cli.parser import path
from tpr_jax.data.datasets import DATASETS
from tpr_jax.errors import UserError
from tpr_jax.utils.streams import quiet_when_closed, suppress_stderr

BUILDERS = {name: dataset.tfds.builder for name, dataset in DATASETS.items() if dataset.tfds}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tpr_jax.data.tfds_builders",
        description="Build a data set as a TensorFlow Dataset, in sharded records.",
    )
    parser.add_argument("dataset", choices=sorted(BUILDERS))
    parser.add_argument("--manual_dir", type=path, required=True, help="the data set's folder")
    parser.add_argument(
        "--data_dir", type=path, required=True, help="where the records go: a folder or a bucket"
    )
    parser.add_argument("--config", default="sized", choices=("sized", "original"))
    parser.add_argument(
        "--beam",
        type=int,
        default=0,
        metavar="N",
        help="run on Apache Beam, with N processes on this machine",
    )
    args = parser.parse_args(argv)
    try:
        # Imported only now, because the builders import TensorFlow.
        module = importlib.import_module(f"tpr_jax.data.tfds_builders.{args.dataset}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import tensorflow_datasets as tfds

    builder = getattr(module, BUILDERS[args.dataset])(data_dir=args.data_dir, config=args.config)
    settings = tfds.download.DownloadConfig(manual_dir=args.manual_dir)
    try:
        if args.beam:
            builder.use_beam, settings.beam_options = True, _beam_options(args.beam)
        with _silence_child_stderr() if args.beam else contextlib.nullcontext():
            builder.download_and_prepare(download_config=settings)
    except (UserError, RuntimeError) as error:
        # Beam appends the failing step, and its workers pass on a traceback as text.
        text = f"UserError: {error}" if isinstance(error, UserError) else str(error)
        messages = re.findall(r"UserError: (.*?)(?: \[while running .*)?$", text, re.MULTILINE)
        if not messages:
            raise
        print(f"error: {messages[-1]}", file=sys.stderr)
        return 2
    for name, split in builder.info.splits.items():
        print(f"{name}: {split.num_examples:,} images in {split.num_shards} files")
    print(f"written: {builder.data_path}")
    return 0


def _beam_options(workers: int):
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "--beam needs Apache Beam: pip install -r requirements-beam.txt in an environment of its own"
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
def _silence_child_stderr() -> Iterator[None]:
    """Drops what Beam's workers write to stderr: logs and tracebacks, whatever log level is set."""
    before = sys.stderr
    try:
        with suppress_stderr() as own, os.fdopen(os.dup(own), "w", buffering=1) as sys.stderr:
            yield
    finally:
        sys.stderr = before


if __name__ == "__main__":
    with quiet_when_closed():
        sys.exit(main())
