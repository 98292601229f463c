"""Tests models on data sets that they were not trained on: trained on one, tested on all, in one table.

    python -m tpr_jax.cross MODEL... --data DATASET=DIR... [--out DIR]

MODEL is the --workdir of a finished run, or whatever `from_pretrained` reads (`clip-mini` or a hub id for
CLIP as it is). DATASET is mini_pedes, cuhk_pedes, icfg_pedes, rstp_reid, ...; without =DIR its folder is
data/<its name>, or MiniPEDES as bundled. Every model is scored on every test split, both directions.

After each, DIR/cross.md and DIR/cross.csv (by default in runs/cross) hold what there is, and DIR/cells a file
for each pair. The same command goes on where it was interrupted, and scores anew only what has changed.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.config import defaults as config_lib
from tpr_jax.cross import table as cross_table
from tpr_jax.data.annotations import DATASETS, annotation_path
from tpr_jax.data.datasets import data_folder
from tpr_jax.data.records import Records, load_records
from tpr_jax.errors import UserError
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.utils import locking
from tpr_jax.utils.files import write_json, write_text
from tpr_jax.utils.hashing import sha256

BATCH_SIZE = 64
WEIGHTS = (".safetensors", ".bin", ".pt", ".json", ".txt")  # the files that make a model what it is


def parse(argv: Sequence[str]) -> tuple[list[str], dict[str, str], Path]:
    """(models, data set -> its folder, folder for what is written) of a command line."""
    parser = arguments.Parser(
        prog="python -m tpr_jax.cross", usage=__doc__, add_help=False, allow_abbrev=False
    )
    parser.add_argument("models", nargs="*", type=arguments.path)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--out", type=arguments.path, default=str(Path("runs") / "cross"))
    parser.add_argument("-h", "--help", action="store_true")
    args = parser.parse_intermixed_args(list(argv[1:]))
    if args.help or len(argv) == 1:
        print(__doc__.strip())
        raise SystemExit(0 if args.help else 2)
    if not args.models:
        raise UserError("no model is named: give some, such as runs/demo clip-mini, before --data")
    if not args.data:
        raise UserError("--data is missing: name what to test on, such as --data mini_pedes cuhk_pedes=DIR")
    data = {}
    for word in args.data:
        dataset, _, folder = word.partition("=")
        if dataset not in DATASETS:
            near = config_lib.nearest(dataset, DATASETS)
            raise UserError(f"--data {word}: data set '{dataset}' is unknown: {near}")
        if dataset in data:
            raise UserError(f"--data {word}: {dataset} is given twice: leave one out")
        if dataset == "folder" and not folder:
            raise UserError("--data folder: own data need their folder, --data folder=DIR")
        data[dataset] = data_folder(dataset, arguments.path(folder))
    return args.models, data, Path(args.out)


def run(argv: list[str]) -> None:
    """Parses, scores what is not there yet, and writes and prints the tables.

    Raises:
      UserError: a model or data set cannot be used; told before anything is scored.
    """
    given, data, out = parse(argv)
    with locking.hold(out, "--out", "writing these tables"):
        _cross(given, data, out, argv)


def _cross(given: Sequence[str], data: dict[str, str], out: Path, argv: Sequence[str]) -> None:
    models = [describe_model(name) for name in given]
    for i, model in enumerate(models):
        if model["sha256"] in [other["sha256"] for other in models[:i]]:
            raise UserError(f"{model['name']} is the same model as another that is given: leave one out")
    tests = {dataset: load_records(folder, "test", dataset) for dataset, folder in data.items()}
    sums = {dataset: sha256([Path(annotation_path(dataset, folder))]) for dataset, folder in data.items()}
    cells, number = [], 0
    try:
        for model in models:
            loaded = None
            for dataset, records in tests.items():
                number += 1
                what = f"[{number} of {len(models) * len(tests)}] {model['name']} on {dataset}: "
                print(what, end="", flush=True)
                path = out / "cells" / f"{model['sha256'][:12]}-{dataset}-{sums[dataset][:12]}.json"
                scores = read_cell(path, model["sha256"], sums[dataset])
                there = scores is not None
                if not there:
                    loaded = loaded or load(model["place"])
                    scores = score(loaded, records)
                    facts = {**model, "tested_on": dataset, "annotation_sha256": sums[dataset]}
                    write_json(path, {**facts, "test": scores})
                print(f"R@1 {scores['t2i']['R1']:.2f}" + (", was there already" if there else ""), flush=True)
                cells.append({**model, "tested_on": dataset, "test": scores})
                write_text(out / "cross.md", cross_table.markdown(cells))
                write_text(out / "cross.csv", cross_table.comma_separated(cells))
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "tpr_jax.cross", *argv[1:]])
        print(f"\nerror: interrupted; to go on: {again}", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"\n{cross_table.markdown(cells)}\nwritten to {out}: cross.md, cross.csv, cells/")


def describe_model(given: str) -> dict:
    """`name` as it was given, `place` for `from_pretrained`, `trained_on` (data sets' names) and `sha256`.

    A run and the model that it left say what they were trained on by the run's config.json; what else can be
    loaded says nothing, and `trained_on` is then empty.

    Raises:
      UserError: there is no such model, or a run that has not left one yet.
    """
    from tpr_jax.weights.backbone import find
    from tpr_jax.weights.save_adapter import INSIDE

    folder = Path(given)
    training = _training(folder)
    if training and not (folder / "model").is_dir():
        raise UserError(f"{given} is a run that has no model/ yet: let it finish, or leave it out")
    place = str(folder / "model") if training else given
    if training is None and folder.is_dir():
        training = _training(folder.parent)
    here = find(place).path
    files = sorted(path for path in (*here.glob("*"), *here.glob(f"{INSIDE}/*")) if path.suffix in WEIGHTS)
    return {
        "name": given.rstrip(os.sep),
        "place": place,
        "trained_on": [training["dataset"], *(mixed[0] for mixed in training["mix"])] if training else [],
        "sha256": sha256(files if here.is_dir() else [here]),
    }


def _training(folder: Path) -> dict | None:
    """The config.json that a run keeps; None where there is none, or that of something else."""
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return (
        found if isinstance(found, dict) and {"dataset", "mix", "method", "losses"} <= found.keys() else None
    )


def read_cell(path: Path, model: str, annotation: str) -> dict | None:
    """The scores of a cell's file if it is whole, and of this model and annotation."""
    try:
        cell = json.loads(path.read_text())
        if (cell["sha256"], cell["annotation_sha256"]) != (model, annotation):
            return None
        scores = cell["test"]
        whole = all(float(scores[way][key]) >= 0 for way in ("t2i", "i2t") for key in METRIC_KEYS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return scores if whole else None


def load(place: str):
    """The model; imports JAX, which a mistaken command line should not wait for."""
    import tpr_jax

    return tpr_jax.from_pretrained(place)


def score(model, records: Records) -> dict:
    """R@1, R@5, R@10, mAP and mINP of a model on a split, both directions, percent.

    Raises:
      UserError: a picture cannot be read.
    """
    import numpy as np
    from tqdm import tqdm

    from tpr_jax.data.batches import image_batches
    from tpr_jax.data.records import caption_pairs, image_sources
    from tpr_jax.metrics.retrieval import retrieval_metrics

    _, captions, query_pids = caption_pairs(records)
    show = {"leave": False, "dynamic_ncols": True, "disable": None}
    total = -(-len(records.image_paths) // BATCH_SIZE)
    batches = image_batches(image_sources(records), model.config.image_size, BATCH_SIZE)
    gallery = [
        model.encode_images(images, BATCH_SIZE)[:valid]
        for images, valid in tqdm(batches, total=total, desc="photos", **show)
    ]
    queries = [
        model.encode_texts(captions[start : start + 16 * BATCH_SIZE], BATCH_SIZE)
        for start in tqdm(range(0, len(captions), 16 * BATCH_SIZE), desc="captions", **show)
    ]
    return retrieval_metrics(np.concatenate(queries), np.concatenate(gallery), query_pids, records.pids)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
