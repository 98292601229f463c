"""Checks the copies of the benchmarks, and describes each by hashes that two people can compare."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tpr_jax.data import check
from tpr_jax.data.annotations import Entry, annotation_files, annotation_path, read_entries
from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json
from tpr_jax.utils.hashing import image_list_digest, sha256
from tpr_jax.utils.plural import counted

RECORD = "copies.json"  # in the workdir: the copies that were checked before


@dataclass(frozen=True)
class Copy:
    """One copy of a benchmark.

    Attributes:
      annotation: the name of the annotation file in the folder.
      annotation_sha256: the SHA-256 of its content.
      images: the number of different images that it names.
      image_bytes: the sum of their sizes.
      images_sha256: the SHA-256 of one line "PATH<tab>BYTES" for each image, see `image_list_digest`.
      subset: how the splits differ from the official sizes; empty if they do not.
    """

    annotation: str
    annotation_sha256: str
    images: int
    image_bytes: int
    images_sha256: str
    subset: str


def check_copies(
    data: Mapping[str, str], workdir: Path, allow_subset: bool, say: Callable[[str], object] = print
) -> dict[str, Copy]:
    """Checks each copy as `data.check` does, unless the same files were checked before.

    Args:
      data: the folder of each benchmark.
      workdir: keeps what was checked, in copies.json.
      allow_subset: whether splits may have other sizes than the official ones.
      say: prints a line for each copy.

    Raises:
      UserError: a copy has a problem; the message names the first one.
    """
    known = _read_record(workdir / RECORD)
    copies = {}
    for dataset, folder in data.items():
        before = known.get(dataset, {})
        subset = before.get("subset") if isinstance(before, dict) else None
        described = describe(dataset, folder, subset) if isinstance(subset, str) else None
        how = "the same files were checked before"
        if described is None or asdict(described) != before:
            subset, how = _check(dataset, folder), "whole"
            described = describe(dataset, folder, subset)
        if described is None:
            raise UserError(f"--data {dataset}={folder}: changed while it was checked: rerun the command")
        if described.subset and not allow_subset:
            raise UserError(
                f"--data {dataset}={folder}: {described.subset}; get the authors' copy, or add "
                "--allow_subset to try the command on this one"
            )
        copies[dataset] = described
        images = f"{counted(described.images, 'image')}, {described.image_bytes / 1e6:,.1f} MB"
        say(
            f"{dataset} in {folder}: {images}; {f'a subset: {described.subset}' if described.subset else how}"
        )
        write_json(workdir / RECORD, known | {name: asdict(copy) for name, copy in copies.items()})
    return copies


def _check(dataset: str, folder: str) -> str:
    """Checks a copy; returns how its splits differ from the official sizes, empty if they do not.

    Raises:
      UserError: the copy has another problem.
    """
    problems = check.check(dataset, folder, progress=True)["problems"]
    for kind, lines in problems.items():
        if kind != "counts":
            raise UserError(
                f"--data {dataset}={folder}: {kind}: {_first(lines)}; "
                f"python -m tpr_jax.data.check {dataset} --data_dir {folder} lists all problems"
            )
    return _first(problems.get("counts", []))


def _first(lines: Sequence[str]) -> str:
    """Returns the first line and the number of the others; empty without any."""
    return f"{lines[0]} (and {len(lines) - 1:,} more)" if lines[1:] else "".join(lines)


def describe(dataset: str, folder: str, subset: str) -> Copy | None:
    """Describes a copy by its hashes; None if its files cannot be read, which the check then reports."""
    try:
        entries, _ = read_entries(dataset, folder)
        annotation = annotation_path(dataset, folder)
        sizes = image_sizes(entries, folder)
    except (UserError, OSError):
        return None
    return Copy(
        annotation=os.path.relpath(annotation, folder),
        annotation_sha256=sha256(annotation_files(dataset, folder)),
        images=len(sizes),
        image_bytes=sum(sizes.values()),
        images_sha256=image_list_digest(sizes),
        subset=subset,
    )


def image_sizes(entries: Sequence[Entry], folder: str) -> dict[str, int]:
    """Returns the size in bytes of each image that the entries name, by its path below the folder.

    Raises:
      OSError: an image does not exist.
    """
    images = dict.fromkeys(entry.image for entry in entries)
    return {Path(os.path.relpath(image, folder)).as_posix(): os.path.getsize(image) for image in images}


def _read_record(path: Path) -> dict:
    """Reads which copies were checked before; empty if that is not readable."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
