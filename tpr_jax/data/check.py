"""Says whether a copy of a data set is whole, and all that is wrong with it.

    python -m tpr_jax.data.check DATASET --data_dir DIR [--json]

DATASET is a name as in config.dataset. The exit code is 0 for a whole copy, 1 for one with problems, 2 where
the command was used wrongly. Problems: records that cannot be used, missing and unreadable pictures, empty
captions, identities or photos in two splits, other counts than the official ones. Captions of more than 77
tokens are cut when they are read, the published benchmarks have some, and so they are told but are no
problem.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from tqdm import tqdm

from tpr_jax.cli import parser as arguments
from tpr_jax.data import counts as counts_lib
from tpr_jax.data import datasets, leaks
from tpr_jax.data.annotations import DATASETS, SPLITS, Entry, annotation_path, read_entries
from tpr_jax.data.batches import worker_threads
from tpr_jax.data.images.read import Crop, read_image
from tpr_jax.data.photos import Photos
from tpr_jax.errors import UserError
from tpr_jax.utils.streams import quiet_when_closed

SHOWN = 10  # of each kind
# With fewer pictures processes would take longer to start than they save.
_FEW = 2000


def check(dataset: str, data_dir: str, progress: bool = False) -> dict:
    """All that can be told about a copy.

    Returns `dataset`, `data_dir`, `whole` (bool), `counts` {split: {identities, images, captions}},
    `official` (likewise, or None), `problems` and `notes`, each {kind: [a line each]} with the kinds that
    there are.

    Raises:
      UserError: there is no such folder.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"--data_dir {data_dir}: no such folder")
    problems, notes = defaultdict(list), defaultdict(list)
    official = counts_lib.OFFICIAL.get(dataset)
    result = {"dataset": dataset, "data_dir": str(data_dir)}
    try:
        entries, found = read_entries(dataset, data_dir)
    except UserError as error:
        entries, found = [], []
        problems["annotation"].append(str(error))
    for kind, message in found:
        problems[kind].append(message)
    counts = _count(entries)
    if entries:
        annotation = annotation_path(dataset, data_dir)
        for kind, message in _bad_pictures(entries, progress):
            problems[kind].append(message)
        shared = leaks.of_entries(entries)
        problems["identities in two splits"] += shared.people
        problems["photos in two splits"] += shared.photos
        problems["counts"] += counts_lib.deviations(dataset, counts)
        notes["captions over 77 tokens"] += long_captions(entries)
        notes["pictures named twice"] += pictures_named_twice(entries)
        if dataset == "folder":
            missing = [split for split in ("train", "test") if split not in counts]
            problems["splits"] += [f"{annotation}: no record of split '{split}'" for split in missing]
    elif not problems:
        problems["annotation"].append(f"{annotation_path(dataset, data_dir)}: has no records")
    problems = {kind: lines for kind, lines in problems.items() if lines}
    return result | {
        "whole": not problems,
        "counts": {split: c._asdict() for split, c in counts.items()},
        "official": official and {split: c._asdict() for split, c in official.items()},
        "problems": problems,
        "notes": {kind: lines for kind, lines in notes.items() if lines},
    }


def long_captions(entries: Sequence[Entry], limit: int = 77) -> list[str]:
    """A line for each caption of more tokens than CLIP takes, start and end of text among them."""
    from tpr_jax.data.tokenizer import clip_tokenizer

    places = [(entry, index) for entry in entries for index in range(len(entry.captions))]
    ids = []
    tokenizer = clip_tokenizer(limit + 1)  # one more: whether its last place is taken tells
    for start in range(0, len(places), 4096):
        part = places[start : start + 4096]
        ids += (tokenizer([entry.captions[index] for entry, index in part])[:, -1] != 0).tolist()
    return [
        f"{entry.where}: caption {index} has more than {limit} tokens, and will be cut"
        for (entry, index), too_long in zip(places, ids, strict=True)
        if too_long
    ]


def pictures_named_twice(entries: Sequence[Entry]) -> list[str]:
    """A line for each record with the picture, and the box, of an earlier one."""
    first, lines, photos = {}, [], Photos()
    for entry in entries:
        key = (photos.key(entry.image), entry.box)
        if key in first:
            lines.append(f"{entry.where}: has the picture of {first[key]}")
        first.setdefault(key, entry.where)
    return lines


def _count(entries: Sequence[Entry]) -> dict[str, counts_lib.Counts]:
    counts = {}
    for split in sorted({entry.split for entry in entries}, key=SPLITS.index):
        chosen = [entry for entry in entries if entry.split == split]
        captions = sum(len(entry.captions) for entry in chosen)
        counts[split] = counts_lib.Counts(len({str(entry.pid) for entry in chosen}), len(chosen), captions)
    return counts


def _bad_pictures(entries: Sequence[Entry], progress: bool) -> list[tuple[str, str]]:
    """(kind, message) of each picture that is missing or cannot be read, in the annotation's order."""
    distinct = list(dict.fromkeys((entry.image, entry.box) for entry in entries))
    workers = worker_threads()
    if len(distinct) < _FEW:
        pool = ThreadPoolExecutor(workers)
        found = pool.map(look_at, distinct)
    else:  # small pictures spend much of their time in Python, where threads stand in each other's way
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        found = pool.map(look_at, distinct, chunksize=64)
    with pool:
        try:
            bar = tqdm(found, "pictures", len(distinct), unit="", disable=None if progress else True)
            return [problem for problem in bar if problem]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def look_at(picture: tuple[str, tuple | None]) -> tuple[str, str] | None:
    """What is wrong with one picture (path, box or None), decoded whole; None: nothing."""
    path, box = picture
    if not os.path.exists(path):
        return "missing pictures", path
    try:
        read_image(path if box is None else Crop(path, *box))
    except UserError as error:
        return "unreadable pictures", str(error)
    return None


def describe(result: dict) -> str:
    """The result in words: the counts, then the first of each kind of problem."""
    lines = [f"{result['dataset']} in {result['data_dir']}"]
    for split, counts in result["counts"].items():
        lines.append(f"  {split:<5}  {counts_lib.Counts(**counts)}")
    for part, title in (("problems", ""), ("notes", " (no problem)")):
        for kind, found in result[part].items():
            lines += [f"{kind}{title}: {len(found):,}", *(f"  {line}" for line in found[:SHOWN])]
            lines += [f"  ... and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
    lines.append("whole" if result["whole"] else "not whole")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 whole, 1 not, 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tpr_jax.data.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument(
        "--data_dir", type=arguments.path, default="", help="the data set's folder; without: data/<its name>"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all problems")
    args = parser.parse_args(argv)
    try:
        if args.dataset not in DATASETS:
            raise UserError(f"data set '{args.dataset}' is unknown: known are: {', '.join(DATASETS)}")
        if args.dataset == "folder" and not args.data_dir:
            raise UserError("--data_dir is missing: data set 'folder' needs it")
        result = check(args.dataset, datasets.data_folder(args.dataset, args.data_dir), progress=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2) if args.json else describe(result))
    return 0 if result["whole"] else 1


if __name__ == "__main__":
    with quiet_when_closed():
        sys.exit(main())
