"""Tests models on data sets that they were not trained on: every model on every test split, in one table.

    python -m tpr_jax.cross MODEL... --data DATASET=DIR... [--out DIR]

MODEL is the --workdir of a finished run, or anything that `from_pretrained` reads (`clip-mini` or a hub id
for CLIP without training). DATASET is mini_pedes, cuhk_pedes, icfg_pedes, rstp_reid, ...; without =DIR its
folder is data/<its name>, or the bundled MiniPEDES. Scores have both directions.

DIR/cross.md and DIR/cross.csv (default: runs/cross) are updated after every pair of model and data set, and
DIR/cells keeps a file for each. Rerun the same command to resume: it scores only what is new or has changed.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit, resume_hint, verdict
from tpr_jax.config import defaults as config_lib
from tpr_jax.cross import table
from tpr_jax.data.annotations import annotation_files
from tpr_jax.data.datasets import DATASETS, count_deviations, data_folder
from tpr_jax.data.records import Records, load_records
from tpr_jax.data.splits import count_records
from tpr_jax.errors import UserError
from tpr_jax.metrics.remarks import remarks
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.train import lineage
from tpr_jax.utils import locking
from tpr_jax.utils.files import remove_leftovers, remove_leftovers_matching, write_json, write_text
from tpr_jax.utils.hashing import image_list_digest, sha256

BATCH_SIZE = 64
MODEL_FILES = (".safetensors", ".bin", ".pt", ".json", ".txt")  # files that determine a model's features

Scores = dict[str, dict[str, float]]  # direction -> metric -> percent


class Arguments(NamedTuple):
    """A parsed command line; `data` maps data sets to their folders."""

    models: list[str]
    data: dict[str, str]
    out: Path


@dataclass(frozen=True)
class TestedSplit:
    """A test split.

    Attributes:
      records: its images and captions.
      annotation_sha256: the checksum of the annotation's files.
      images_sha256: the checksum of the paths and sizes of its images.
      notes: how it differs from the official one, in sentences.
    """

    records: Records
    annotation_sha256: str
    images_sha256: str
    notes: list[str]

    def source(self) -> dict[str, str]:
        """Returns the checksums by which its scores are known again."""
        return {"annotation_sha256": self.annotation_sha256, "images_sha256": self.images_sha256}


@dataclass(frozen=True)
class TestedModel:
    """A model to test.

    Attributes:
      name: the model as it was given.
      location: the argument of `from_pretrained` that loads it.
      trained_on: the data sets that it was trained on; empty if unknown.
      sha256: the checksum of its files.
    """

    name: str
    location: str
    trained_on: tuple[str, ...]
    sha256: str


def parse(argv: Sequence[str]) -> Arguments:
    """Parses a command line.

    Raises:
      UserError: an argument is missing or wrong.
      SystemExit: after printing the help.
    """
    parser = _make_parser()
    if len(argv) == 1:
        parser.print_help()
        raise SystemExit(2)
    args = parser.parse_intermixed_args(list(argv[1:]))
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
            raise UserError("--data folder: give the folder of your data as --data folder=DIR")
        data[dataset] = data_folder(dataset, arguments.path(folder))
    return Arguments(args.models, data, Path(args.out))


def _make_parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="python -m tpr_jax.cross",
        usage="python -m tpr_jax.cross MODEL... --data DATASET[=DIR]... [--out DIR]",
        description="Tests every model on every test split, also of data sets that it was not trained on.",
        examples=(
            "python -m tpr_jax.cross runs/demo clip-mini --data mini_pedes",
            "python -m tpr_jax.cross runs/cuhk --data icfg_pedes=DIR rstp_reid=DIR --out runs/transfer",
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "models",
        nargs="*",
        type=arguments.path,
        metavar="MODEL",
        help="the workdir of a finished run, a CLIP folder, a hub id, or clip-mini",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="DATASET[=DIR]",
        help=f"what to test on, which is required: {', '.join(DATASETS)}; without =DIR the folder is "
        "data/<its name>, or the bundled MiniPEDES",
    )
    parser.add_argument(
        "--out",
        type=arguments.path,
        default=str(Path("runs") / "cross"),
        metavar="DIR",
        help="the folder for the tables; rerun the same command to score only what is new",
    )
    return parser


def run(argv: list[str]) -> None:
    """Computes the missing scores, and writes and prints the tables.

    Raises:
      UserError: a model or data set cannot be used; raised before anything is scored.
    """
    args = parse(argv)
    with locking.hold(args.out, "--out", "writing these tables"):
        remove_leftovers(args.out, ["cross.md", "cross.csv"])
        remove_leftovers_matching(args.out / "cells", r".+\.json")
        text = _score_all(args)
    print(f"\n{text}\nwritten to {args.out}: cross.md, cross.csv, cells/")


def _score_all(args: Arguments) -> str:
    """Scores every model on every data set and writes the tables after each; returns the last cross.md."""
    models = [describe_model(name) for name in args.models]
    for i, model in enumerate(models):
        if model.sha256 in [other.sha256 for other in models[:i]]:
            raise UserError(f"{model.name} is the same model as another that is given: leave one out")
    splits = {dataset: describe_split(dataset, folder) for dataset, folder in args.data.items()}
    notes = [note for split in splits.values() for note in split.notes]
    cells = []
    for model in models:
        loaded = None
        for dataset, split in splits.items():
            progress = f"[{len(cells) + 1} of {len(models) * len(splits)}]"
            print(f"{progress} {model.name} on {dataset}: ", end="", flush=True)
            name = f"{model.sha256[:12]}-{dataset}-{split.annotation_sha256[:12]}.json"
            path = args.out / "cells" / name
            source = split.source()
            scores = read_cell(path, {"sha256": model.sha256, **source})
            done = scores is not None
            if not done:
                loaded = loaded or load(model.location)
                scores = score(loaded, split.records)
                write_json(
                    path, {**dataclasses.asdict(model), "tested_on": dataset, **source, "test": scores}
                )
            print(f"R@1 {scores['t2i']['R1']:.2f}" + (", already done" if done else ""), flush=True)
            cells.append(table.Cell(model.name, model.trained_on, dataset, scores))
            write_text(args.out / "cross.md", table.render_markdown(cells, notes))
            write_text(args.out / "cross.csv", table.render_csv(cells))
    return table.render_markdown(cells, notes)


def describe_split(dataset: str, folder: str) -> TestedSplit:
    """Reads the test split of a data set.

    Raises:
      UserError: it cannot be read.
    """
    records = load_records(folder, "test", dataset)
    sizes = {os.path.relpath(path, folder): os.path.getsize(path) for path in records.image_paths}
    deviations = count_deviations(dataset, count_records({"test": records}))
    subset = [line for line in deviations if line.startswith("test ")]
    return TestedSplit(
        records=records,
        annotation_sha256=sha256(annotation_files(dataset, folder)),
        images_sha256=image_list_digest(sizes),
        notes=remarks({"dataset": dataset, "data": {"subset": subset}}),
    )


def describe_model(name: str) -> TestedModel:
    """Describes a model: a run's workdir, the model folder in it, or anything that `from_pretrained` reads.

    The run's config.json says what data it was trained on, and its backbone's if that is a run too.

    Raises:
      UserError: there is no such model, or the run has not saved one yet.
    """
    from tpr_jax.weights.backbone import find
    from tpr_jax.weights.save_adapter import BUNDLED_BACKBONE

    folder = Path(name)
    config = lineage.read_run_config(folder)
    if config and not (folder / "model").is_dir():
        raise UserError(f"{name} is a run that has no model/ yet: let it finish, or leave it out")
    location = str(folder / "model") if config else name
    if config is None and folder.is_dir():
        config = lineage.read_run_config(folder.parent)
    path = find(location).path
    candidates = (*path.glob("*"), *path.glob(f"{BUNDLED_BACKBONE}/*"))
    files = sorted(file for file in candidates if file.suffix in MODEL_FILES)
    return TestedModel(
        name=name.rstrip(os.sep),
        location=location,
        trained_on=lineage.trained_on(config) if config else (),
        sha256=sha256(files if path.is_dir() else [path]),
    )


def read_cell(path: Path, source: Mapping[str, str]) -> Scores | None:
    """Reads the scores in a cell's file; None unless they are complete and its checksums are these."""
    try:
        cell = json.loads(path.read_text())
        if any(cell[key] != value for key, value in source.items()):
            return None
        scores = cell["test"]
        complete = all(float(scores[d][key]) >= 0 for d in ("t2i", "i2t") for key in METRIC_KEYS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return scores if complete else None


def load(location: str):
    """Loads a model; imports JAX, which takes seconds."""
    import tpr_jax

    return tpr_jax.from_pretrained(location)


def score(model, records: Records) -> Scores:
    """Returns R@1, R@5, R@10, mAP and mINP of a model on a split, both directions, in percent.

    Raises:
      UserError: an image cannot be read.
    """
    import numpy as np
    from tqdm import tqdm

    from tpr_jax.data.batches import image_batches
    from tpr_jax.data.records import caption_pairs, image_sources
    from tpr_jax.metrics.retrieval import retrieval_metrics
    from tpr_jax.perf.batches import images_at_once

    _, captions, query_pids = caption_pairs(records)
    bar = {"leave": False, "dynamic_ncols": True, "disable": None}
    size = images_at_once(model.config)
    total = -(-len(records.image_paths) // size)
    batches = image_batches(image_sources(records), model.config.image_size, size)
    gallery = [
        model.encode_images(images, size)[:valid]
        for images, valid in tqdm(batches, total=total, desc="images", **bar)
    ]
    queries = [
        model.encode_texts(captions[start : start + 16 * BATCH_SIZE], BATCH_SIZE)
        for start in tqdm(range(0, len(captions), 16 * BATCH_SIZE), desc="captions", **bar)
    ]
    return retrieval_metrics(np.concatenate(queries), np.concatenate(gallery), query_pids, records.pids)


def main(argv: list[str]) -> None:
    """Runs the command; an interrupt ends it with the command to resume."""

    def explain(error: BaseException) -> tuple[int, str]:
        if isinstance(error, KeyboardInterrupt):
            return 130, f"\nerror: interrupted; {resume_hint('tpr_jax.cross', argv)}"
        return verdict(error, argv)

    explain_and_exit(run, argv, explain)


if __name__ == "__main__":
    main(sys.argv)
