"""`python -m tpr_jax.data.tfds_builders DATASET --manual_dir DIR --data_dir OUT`: see `common.py`."""

import argparse
import importlib
import sys

from tpr_jax.errors import UserError
from tpr_jax.pipes import quiet_when_closed

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
    parser.add_argument("--manual_dir", required=True, help="the data set's folder")
    parser.add_argument("--data_dir", required=True, help="where the records go: a folder or a bucket")
    parser.add_argument("--config", default="sized", choices=("sized", "original"))
    args = parser.parse_args(argv)
    # Only now: they import TensorFlow.
    module = importlib.import_module(f"tpr_jax.data.tfds_builders.{args.dataset}")
    import tensorflow_datasets as tfds

    builder = getattr(module, BUILDERS[args.dataset])(data_dir=args.data_dir, config=args.config)
    settings = tfds.download.DownloadConfig(manual_dir=args.manual_dir)
    try:
        builder.download_and_prepare(download_config=settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, split in builder.info.splits.items():
        print(f"{name}: {split.num_examples:,} pictures in {split.num_shards} files")
    print(f"written: {builder.data_path}")
    return 0


if __name__ == "__main__":
    with quiet_when_closed():
        sys.exit(main())
