"""Divides the people of a user's own data into splits, in a file beside the captions."""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tpr_jax.data.id_checks import why_id_invalid
from tpr_jax.data.identity import normalize_id
from tpr_jax.data.text_files import csv_lines, rename_known
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_text

SPLITS_FILE = "splits.csv"
_COLUMNS = ["id", "split"]
SPLIT_NAMES = ("train", "val", "test")
_NAMES = {2: ("train", "test"), 3: SPLIT_NAMES}


def parse_shares(text: str) -> dict[str, float]:
    """Parses `80/10/10` or `80/20` as the shares of train, val and test, or of train and test.

    Raises:
      UserError: the text is not two or three positive numbers.
    """
    try:
        numbers = [float(number) for number in text.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) not in _NAMES or not all(0 < number < float("inf") for number in numbers):
        raise UserError(f"--split {text}: give the shares of train, val and test as 80/10/10, or as 80/20")
    return {name: number / sum(numbers) for name, number in zip(_NAMES[len(numbers)], numbers, strict=True)}


def divide(
    people: Sequence[str], shares: Mapping[str, float], seed: int, known: Mapping[str, str]
) -> dict[str, str]:
    """Divides people into splits.

    The result depends on the set of people and the seed, not on their order. People that have a split keep
    it. The counts are the shares' to the nearest person, but at least one.

    Args:
      people: the people.
      shares: the share of each split.
      seed: selects who goes where.
      known: the splits of people that have one.

    Returns:
      The split of each person: those of `known`, then the others in an order that the seed determines.

    Raises:
      UserError: there are fewer people than splits.
    """
    people = sorted(set(people), key=lambda person: _draw(seed, person))
    if len(people) < len(shares):
        raise UserError(
            f"{len(people)} people cannot be divided into {len(shares)} splits: each needs at least one"
        )
    missing = Counter(_apportion(len(people), shares))
    missing.subtract(Counter(known[person] for person in people if person in known))
    divided = dict(known)
    for person in people:
        if person in known:
            continue
        split = max(shares, key=lambda name: missing[name])
        divided[person] = split
        missing[split] -= 1
    return divided


def find_people_splits(folder: str) -> str | None:
    """Returns the path of the file of splits in a folder, None if there is none.

    Capitals in its name do not matter (`Splits.csv`).

    Raises:
      UserError: there are several.
    """
    files = (path for path in Path(folder).glob("*") if path.name.lower() == SPLITS_FILE)
    names = sorted(path.name for path in files if path.is_file())
    if len(names) > 1:
        raise UserError(f"{folder or '.'}: holds both {names[0]} and {names[1]}: keep one of them")
    return os.path.join(folder, names[0]) if names else None


def read_people_splits(folder: str) -> dict[str, str] | None:
    """Reads the split of each person from the file in a folder; None if there is none.

    Raises:
      UserError: the file is not one of splits, or there are several.
    """
    path = find_people_splits(folder)
    if path is None:
        return None

    def check(header: list[str]) -> None:
        if rename_known(header, _COLUMNS) != _COLUMNS:
            raise UserError(f"{path}: must have the columns id and split, and no other: rename or delete it")

    splits: dict[str, str] = {}
    for number, cells in csv_lines(path, check)[1]:
        if isinstance(cells, str):
            raise UserError(f"{path}: line {number} {cells}")
        person, split = str(normalize_id(cells[0])), cells[1].lower()
        if why := why_id_invalid(person, is_custom=True):
            raise UserError(f"{path}: line {number}: {why}")
        if split not in SPLIT_NAMES:
            raise UserError(f"{path}: line {number}: split '{cells[1]}' must be one of train, val, test")
        if splits.setdefault(person, split) != split:
            raise UserError(f"{path}: line {number}: person {person} has two splits: delete one of the lines")
    return splits


def write_people_splits(folder: str, splits: Mapping[str, str]) -> None:
    """Writes the split of each person to the file in a folder, the existing one if there is one.

    Raises:
      UserError: the file cannot be written, or there are several.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_COLUMNS, *splits.items()])
    write_text(find_people_splits(folder) or os.path.join(folder, SPLITS_FILE), text.getvalue())


def _apportion(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Divides a count by shares (largest remainders), with at least one for each."""
    exact = {name: share * count for name, share in shares.items()}
    counts = {name: max(int(number + 1e-9), 1) for name, number in exact.items()}
    while (difference := count - sum(counts.values())) != 0:
        step = 1 if difference > 0 else -1
        candidates = [name for name in shares if counts[name] + step >= 1]
        name = max(candidates, key=lambda name: step * (exact[name] - counts[name]))
        counts[name] += step
    return counts


def _draw(seed: int, person: str) -> bytes:
    return hashlib.sha256(f"{seed} {person}".encode("utf-8", "surrogatepass")).digest()
