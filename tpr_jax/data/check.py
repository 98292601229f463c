"""Checks whether a copy of a data set is complete, and lists everything that is wrong with it.

    python -m tpr_jax.data.check DATASET --data_dir DIR [--json]
    python -m tpr_jax.data.check folder --data_dir DIR --split 80/10/10 [--seed N]

DATASET is a value of config.dataset. The exit code is 0 for a complete copy, 1 for one with problems, and 2
for wrong usage. Problems are records that cannot be used, missing and unreadable images, empty captions,
identities or photos in two splits, and counts that differ from the official ones. Captions of more than 77
tokens are listed but are not a problem: the published benchmarks have some, and they are truncated when they
are read.

`--split` divides the people of your own data, if the captions have no column `split`, into train, val and
test. DIR/splits.csv then lists who is where.
"""

import contextlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from tqdm import tqdm

from tpr_jax.cli.exit import exit_code, explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.data import custom, leaks, people_splits
from tpr_jax.data.annotations import SPLITS, Entry, annotation_path, read_entries, unread_annotations
from tpr_jax.data.batches import worker_threads
from tpr_jax.data.datasets import DATASETS, Counts, count_deviations, data_folder
from tpr_jax.data.image_paths import ImagePaths, describe_missing
from tpr_jax.data.images.read import Crop, read_image
from tpr_jax.data.text_files import assumed_encoding
from tpr_jax.errors import UserError
from tpr_jax.utils import signals
from tpr_jax.utils.escape import escape_unprintable
from tpr_jax.utils.notices import print_once

MAX_LINES = 10  # lines printed of each kind; --json prints all of them
# With fewer images, starting processes takes longer than it saves.
_MIN_FOR_PROCESSES = 2000


def check(dataset: str, data_dir: str, progress: bool = False) -> dict:
    """Checks one copy of a data set.

    Args:
      dataset: a key of `datasets.DATASETS`.
      data_dir: the copy's folder.
      progress: whether to show a progress bar.

    Returns:
      `dataset`, `data_dir`, `whole` (bool), `counts` {split: {identities, images, captions}}, `official` (of
      the same form, or None), and `problems` and `notes`, each {kind: [line, ...]} without empty kinds.

    Raises:
      UserError: the folder does not exist.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir {data_dir}: no such folder")
    problems, notes = defaultdict(list), defaultdict(list)
    layout = DATASETS[dataset]
    result = {"dataset": dataset, "data_dir": str(data_dir)}
    try:
        entries, annotation_problems = read_entries(dataset, data_dir)
    except UserError as error:
        entries, annotation_problems = [], []
        problems["annotation"].append(str(error))
    with contextlib.suppress(UserError):  # there is no annotation, which is a problem already
        notes["annotation files that are not read"] += unread_annotations(dataset, data_dir)
    for kind, message in annotation_problems:
        problems[kind].append(message)
    counts = _count_entries(entries)
    if entries:
        annotation = annotation_path(dataset, data_dir)
        for kind, message in _check_images(entries, progress):
            problems[kind].append(message)
        shared = leaks.find_in_entries(entries)
        problems["identities in two splits"] += shared.people
        problems["photos in two splits"] += shared.photos
        problems["counts"] += count_deviations(dataset, counts)
        notes["captions over 77 tokens"] += long_captions(entries)
        notes["pictures named twice"] += repeated_images(entries)
        if layout.is_custom:
            notes["assumed encoding"] += assumed_encoding(annotation)
            notes["repeated lines"] += custom.repeated_lines(annotation)
            notes["splits that are not read"] += custom.unread_splits(annotation)
            missing = [split for split in ("train", "test") if split not in counts]
            problems["splits"] += [f"{annotation}: no record of split '{split}'" for split in missing]
    elif not problems:
        problems["annotation"].append(f"{annotation_path(dataset, data_dir)}: has no records")
    problems = {kind: lines for kind, lines in problems.items() if lines}
    return result | {
        "whole": not problems,
        "counts": {split: c._asdict() for split, c in counts.items()},
        "official": layout.counts and {split: c._asdict() for split, c in layout.counts.items()},
        "problems": problems,
        "notes": {kind: lines for kind, lines in notes.items() if lines},
    }


def long_captions(entries: Sequence[Entry], limit: int = 77) -> list[str]:
    """Returns a line for each caption of more tokens than CLIP takes, including start and end of text."""
    from tpr_jax.data.tokenizer import clip_tokenizer

    places = [(entry, index) for entry in entries for index in range(len(entry.captions))]
    too_long = []
    tokenizer = clip_tokenizer(limit + 1)  # a caption is too long if it fills one more position
    for start in range(0, len(places), 4096):
        chunk = places[start : start + 4096]
        too_long += (tokenizer([entry.captions[index] for entry, index in chunk])[:, -1] != 0).tolist()
    return [
        "{}: caption {} has more than {} tokens, and will be truncated".format(
            *entry.caption_place(index), limit
        )
        for (entry, index), is_too_long in zip(places, too_long, strict=True)
        if is_too_long
    ]


def repeated_images(entries: Sequence[Entry]) -> list[str]:
    """Returns a line for each record with the same image and box as an earlier one."""
    first, lines, image_paths = {}, [], ImagePaths()
    for entry in entries:
        key = (image_paths.key(entry.image), entry.box)
        if key in first:
            lines.append(f"{entry.where}: has the image of {first[key]}")
        first.setdefault(key, entry.where)
    return lines


def _count_entries(entries: Sequence[Entry]) -> dict[str, Counts]:
    counts = {}
    for split in sorted({entry.split for entry in entries}, key=SPLITS.index):
        split_entries = [entry for entry in entries if entry.split == split]
        captions = sum(len(entry.captions) for entry in split_entries)
        identities = {str(entry.pid) for entry in split_entries}
        counts[split] = Counts(len(identities), len(split_entries), captions)
    return counts


def _check_images(entries: Sequence[Entry], progress: bool) -> list[tuple[str, str]]:
    """Returns (kind, message) of each image that is missing or unreadable, in the annotation's order."""
    distinct = list(dict.fromkeys((entry.image, entry.box) for entry in entries))
    workers = worker_threads()
    if len(distinct) < _MIN_FOR_PROCESSES:
        pool = ThreadPoolExecutor(workers)
        results = pool.map(check_image, distinct)
    else:  # decoding small images spends much of its time in Python, where threads block each other
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        with signals.blocked():  # this starts the processes
            results = pool.map(check_image, distinct, chunksize=64)
    try:
        bar = tqdm(results, "images", len(distinct), unit="", disable=None if progress else True)
        return [problem for problem in bar if problem]
    finally:
        pool.shutdown(cancel_futures=True)


def check_image(image: tuple[str, tuple | None]) -> tuple[str, str] | None:
    """Decodes one image (path, box or None); returns (kind, message) of its problem, or None."""
    path, box = image
    if not os.path.exists(path):
        return "missing pictures", path + describe_missing(path)
    try:
        read_image(path if box is None else Crop(path, *box))
    except UserError as error:
        return "unreadable pictures", str(error)
    return None


def describe(result: dict) -> str:
    """Formats a result of `check` as text: the counts, then the first problems of each kind."""
    lines = [f"{result['dataset']} in {result['data_dir']}"]
    for split, counts in result["counts"].items():
        lines.append(f"  {split:<5}  {Counts(**counts)}")
    for section, remark in (("problems", ""), ("notes", " (note)")):
        for kind, messages in result[section].items():
            lines += [
                f"{kind}{remark}: {len(messages):,}",
                *(f"  {escape_unprintable(line)}" for line in messages[:MAX_LINES]),
            ]
            lines += [f"  ... and {len(messages) - MAX_LINES:,} more"] if len(messages) > MAX_LINES else []
    lines.append(f"{'whole' if result['whole'] else 'not whole'}{', with notes' if result['notes'] else ''}")
    return "\n".join(lines)


def divide_people(dataset: str, data_dir: str, shares: str, seed: int) -> None:
    """Divides the people of a user's own data into splits, and writes who is where beside the captions.

    People that were divided before keep their split.

    Args:
      dataset: the data set, which is a user's own.
      data_dir: its folder.
      shares: see `people_splits.parse_shares`.
      seed: selects who goes into which split.

    Raises:
      UserError: the captions have splits, or cannot be read; or there are too few people.
    """
    parsed = people_splits.parse_shares(shares)
    people = custom.read_ids(annotation_path(dataset, data_dir))
    known = people_splits.read_people_splits(data_dir) or {}
    splits = people_splits.divide(people, parsed, seed, known)
    if splits != known:
        people_splits.write_people_splits(data_dir, splits)
    file = people_splits.find_people_splits(data_dir)
    counts = Counter(splits[person] for person in people)
    told = ", ".join(f"{counts[split]:,} in {split}" for split in SPLITS if split in counts)
    print_once(f"{file}: {'kept' if splits == known else 'written'}, with {told}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 complete, 1 not, 2 after one line on stderr."""
    return exit_code(run, ["check", *(sys.argv[1:] if argv is None else argv)])


def run(argv: list[str]) -> int:
    """Runs the command; returns 0 for a complete copy and 1 for one with problems.

    Raises:
      UserError: an argument is wrong, or the annotation cannot be read.
    """
    parser = Parser(
        prog="python -m tpr_jax.data.check",
        description="Checks whether a copy of a data set is complete, and lists what is wrong with it.",
        examples=(
            "python -m tpr_jax.data.check cuhk_pedes --data_dir DIR",
            "python -m tpr_jax.data.check folder --data_dir DIR --split 80/10/10",
        ),
    )
    parser.add_argument("dataset", metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument(
        "--data_dir", type=path, default="", help="the data set's folder (default: data/<its name>)"
    )
    parser.add_argument(
        "--split",
        metavar="SHARES",
        help="divide the people of your own data: 80/10/10 for train, val and test, or 80/20 without val",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="selects who goes into which split; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with all problems")
    args = parser.parse_args(argv[1:])
    if args.dataset not in DATASETS:
        raise UserError(f"data set '{args.dataset}' is unknown: choose from: {', '.join(DATASETS)}")
    if DATASETS[args.dataset].is_custom and not args.data_dir:
        raise UserError("--data_dir is missing: data set 'folder' needs it")
    if args.split is not None:
        if not DATASETS[args.dataset].is_custom:
            raise UserError(f"--split {args.split}: {args.dataset} has splits: only 'folder' can be divided")
        divide_people(args.dataset, args.data_dir, args.split, args.seed)
    result = check(args.dataset, data_folder(args.dataset, args.data_dir), progress=True)
    print(json.dumps(result, indent=2) if args.json else describe(result))
    return 0 if result["whole"] else 1


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
