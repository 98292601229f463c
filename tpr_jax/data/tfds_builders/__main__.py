"""`python -m tpr_jax.data.tfds_builders DATASET --manual_dir DIR --data_dir OUT`: see `common.py`."""

import argparse
import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator

from tpr_jax.cli.parser import path
from tpr_jax.errors import UserError
from tpr_jax.utils.streams import quiet_when_closed, stderr_nowhere

BUILDERS = {
    "cuhk_pedes": "CuhkPedes",
    "icfg_pedes": "IcfgPedes",
    "rstp_reid": "RstpReid",
    "ufine6926": "Ufine6926",
}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tpr_jax.data.tfds_builders",
        description="Builds a data set as a TensorFlow Dataset, in sharded records.",
    )
    parser.add_argument("dataset", choices=sorted(BUILDERS))
    parser.add_argument("--manual_dir", type=path, required=True, help="the data set's folder")
    parser.add_argument(
        "--data_dir", type=path, required=True, help="where the records go: a folder or a bucket"
    )
    parser.add_argument("--config", default="sized", choices=("sized", "original"))
    parser.add_argument(
        "--beam", type=int, default=0, metavar="N", help="by Apache Beam, in N processes of this machine"
    )
    args = parser.parse_args(argv)
    try:
        # Only now: they import TensorFlow.
        module = importlib.import_module(f"tpr_jax.data.tfds_builders.{args.dataset}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import tensorflow_datasets as tfds

    builder = getattr(module, BUILDERS[args.dataset])(data_dir=args.data_dir, config=args.config)
    settings = tfds.download.DownloadConfig(manual_dir=args.manual_dir)
    try:
        if args.beam:
            builder.by_beam, settings.beam_options = True, _beam_options(args.beam)
        with _stderr_of_this_process_only() if args.beam else contextlib.nullcontext():
            builder.download_and_prepare(download_config=settings)
    except (UserError, RuntimeError) as error:
        # Beam adds where it was, and from its workers there comes the text of a traceback.
        text = f"UserError: {error}" if isinstance(error, UserError) else str(error)
        told = re.findall(r"UserError: (.*?)(?: \[while running .*)?$", text, re.MULTILINE)
        if not told:
            raise
        print(f"error: {told[-1]}", file=sys.stderr)
        return 2
    for name, split in builder.info.splits.items():
        print(f"{name}: {split.num_examples:,} pictures in {split.num_shards} files")
    print(f"written: {builder.data_path}")
    return 0


def _beam_options(workers: int):
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "--beam needs Apache Beam: pip install -r requirements-beam.txt in an environment of its own"
        ) from error
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what fails `main` says, in one line
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
def _stderr_of_this_process_only() -> Iterator[None]:
    """Workers of Beam write their logs and tracebacks there besides, whatever level is set."""
    before = sys.stderr
    try:
        with stderr_nowhere() as own, os.fdopen(os.dup(own), "w", buffering=1) as sys.stderr:
            yield
    finally:
        sys.stderr = before


if __name__ == "__main__":
    with quiet_when_closed():
        sys.exit(main())
