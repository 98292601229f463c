"""Parses the annotation of any data set into entries of one form, and collects everything wrong with it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tpr_jax.data.clean_text import is_empty, replace_surrogates
from tpr_jax.data.datasets import DATASETS, Dataset
from tpr_jax.data.id_checks import why_id_invalid
from tpr_jax.data.identity import normalize_id
from tpr_jax.data.image_paths import ImagePaths, is_valid_path
from tpr_jax.data.people_splits import find_people_splits
from tpr_jax.data.text_files import SPREADSHEETS, InvalidRecord
from tpr_jax.errors import UserError
from tpr_jax.utils.notices import print_once

SPLITS = ("train", "val", "test")


class Entry(NamedTuple):
    """One image of an annotation."""

    where: str  # file and record, for messages
    split: str
    image: str  # path
    captions: list[str]  # may be empty if there is a problem
    pid: int | str  # from `normalize_id`: two ids with the same `str` are one person
    box: tuple[int, int, int, int] | None = None  # x, y, width, height of the part to use
    name: str = ""  # the annotation's name for the person, if `records` has replaced it by a number
    lines: Sequence[tuple[int, int]] = ()  # (line, item) of each caption in own data

    def caption_place(self, index: int) -> tuple[str, int]:
        """Returns file and record of a caption, and its index there, for messages."""
        return _caption_place(self.where, self.lines, index)


class AnnotationProblem(NamedTuple):
    """Something wrong with an annotation."""

    kind: str  # 'records' or 'empty captions'
    message: str  # one line that names file, record and field


def read_entries(dataset: str, data_dir: str | os.PathLike) -> tuple[list[Entry], list[AnnotationProblem]]:
    """Reads all records of a data set's annotation, in order.

    Returns:
      The entries and the problems. A record that cannot be used appears among the problems only; a record
      with some empty captions keeps the others.

    Raises:
      UserError: the folder or annotation does not exist, or the annotation's format is wrong as a whole.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"{data_dir}: no such folder: set data_dir to the benchmark's folder")
    path, layout = annotation_path(dataset, data_dir), DATASETS[dataset]
    folder, image_paths = os.path.join(data_dir, layout.images), ImagePaths()
    entries, problems = [], []
    for number, fields in layout.reader(path):
        where = f"{path}: {'line' if layout.is_custom else 'record'} {number}"
        entry, entry_problems = _parse(fields, where, layout, folder, image_paths)
        problems += entry_problems
        if entry is not None:
            entries.append(entry)
    return entries, problems


def annotation_path(dataset: str, data_dir: str | os.PathLike) -> str:
    """Returns the path of a data set's annotation file.

    Raises:
      UserError: there is no such file, or more than one.
    """
    layout = DATASETS[dataset]
    for name in layout.annotations:
        matches = sorted(map(str, _visible(data_dir, name)))
        if layout.is_custom and not matches:  # `Captions.CSV`
            files = (path for path in Path(data_dir).glob("*") if path.is_file())
            matches = sorted(str(path) for path in files if path.name.lower() == name)
        if len(matches) > 1:
            names = ", ".join(os.path.basename(match) for match in matches)
            raise UserError(
                f"{data_dir}: holds {len(matches)} files {name}: leave only the annotation there: {names}"
            )
        if matches:
            chosen = Path(matches[0])
            if others := _others(layout.annotations, chosen, data_dir):
                unread = f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not"
                read = chosen.relative_to(data_dir)
                print_once(f"{data_dir}: {read} is read, {unread}: keep one of them")
            return matches[0]
    images = f"the images in {layout.images}/" if layout.images else "the images"
    first, *others = layout.annotations
    expected = f"{first} (or {', '.join(others)})" if others else first
    sheets = [path.name for path in Path(data_dir).glob("*") if path.suffix.lower() in SPREADSHEETS]
    remedy = f"; save {sheets[0]} as captions.csv" if layout.is_custom and sheets else ""
    raise UserError(
        f"{os.path.join(data_dir, first)}: no such file: data_dir must hold {expected} and {images}{remedy}"
    )


def _visible(data_dir: str | os.PathLike, pattern: str) -> list[Path]:
    """Returns the files of a pattern, without hidden ones such as those that macOS adds (`._a.json`)."""
    found = Path(data_dir).glob(pattern)
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def unread_annotations(dataset: str, data_dir: str | os.PathLike) -> list[str]:
    """Returns a line for each annotation under another name beside the one that is read.

    Raises:
      UserError: as for `annotation_path`.
    """
    chosen = Path(annotation_path(dataset, data_dir))
    read, others = chosen.relative_to(data_dir), _others(DATASETS[dataset].annotations, chosen, data_dir)
    return [f"{Path(data_dir, name)}: is not read, since {read} is: keep one of them" for name in others]


def _others(names: Sequence[str], chosen: Path, data_dir: str | os.PathLike) -> list[str]:
    """Returns the other files with one of the names, in any case, as paths within the folder."""
    known = {name.lower() for name in names if "*" not in name}
    folders = {Path(data_dir, name).parent for name in names if "*" not in name}
    files = (path for folder in folders for path in folder.glob("*"))
    named = {path: str(path.relative_to(data_dir)) for path in files}
    return sorted(
        name
        for path, name in named.items()
        if Path(name).as_posix().lower() in known and path.is_file() and not path.samefile(chosen)
    )


def annotation_files(dataset: str, data_dir: str | os.PathLike) -> list[Path]:
    """Returns the files that determine the records: the annotation, its parts, and the splits beside it.

    Raises:
      UserError: as for `annotation_path`, or there are several files of splits.
    """
    layout, annotation = DATASETS[dataset], Path(annotation_path(dataset, data_dir))
    if layout.parts:
        return sorted(annotation.parent.glob(layout.parts))
    splits = find_people_splits(str(data_dir)) if layout.is_custom else None
    return [annotation, *([Path(splits)] if splits else [])]


def _parse(
    fields, where: str, layout: Dataset, folder: str, image_paths: ImagePaths
) -> tuple[Entry | None, list[AnnotationProblem]]:
    """Parses one record into an entry (None if it cannot be used) and its problems."""
    reason = _why_invalid(fields, layout)
    if reason:
        return None, [AnnotationProblem("records", f"{where}: {reason}")]
    field = _captions_field(layout)
    lines, empty, kept = fields["lines"] if layout.is_custom else (), [], []
    for index, caption in enumerate(fields["captions"]):
        if not is_empty(caption):
            kept.append(index)
            continue
        place, item = _caption_place(where, lines, index)
        message = f"{place}: field '{field}', item {item} is empty: fix it or leave it out"
        empty.append(AnnotationProblem("empty captions", message))
    entry = Entry(
        where=where,
        split=layout.split or fields["split"],
        image=image_paths.find(folder, fields[layout.path_field]),
        captions=[replace_surrogates(fields["captions"][index]) for index in kept],
        pid=normalize_id(fields["id"]),
        box=fields["box"] if layout.is_custom else None,
        lines=[lines[index] for index in kept] if lines else (),
    )
    return entry, empty


def _caption_place(where: str, lines: Sequence[tuple[int, int]], index: int) -> tuple[str, int]:
    if not lines:
        return where, index
    line, item = lines[index]
    return f"{where.rpartition(': ')[0]}: line {line}", item


def _why_invalid(fields, layout: Dataset) -> str:
    """Returns why a record cannot be used, or ''."""
    if isinstance(fields, InvalidRecord):
        return fields.reason
    if not isinstance(fields, dict):
        return f"must be an object with fields, not {type(fields).__name__}"
    for field in (*(() if layout.split else ("split",)), "captions", layout.path_field, "id"):
        if field not in fields:
            return f"field '{field}' is missing"
    if not layout.split and fields["split"] not in SPLITS:
        return f"field 'split' is {fields['split']!r}: must be one of {', '.join(SPLITS)}"
    return (
        _why_path_invalid(fields[layout.path_field], layout)
        or why_id_invalid(fields["id"], layout.is_custom)
        or _why_captions_invalid(fields["captions"], layout)
    )


def _why_path_invalid(path, layout: Dataset) -> str:
    if not isinstance(path, str) or not path:
        return f"field '{layout.path_field}' is {path!r}: must be the name of an image"
    if not is_valid_path(path):
        return f"field '{layout.path_field}' is {path!r}: no file can have that name: fix the annotation"
    return ""


def _why_captions_invalid(captions, layout: Dataset) -> str:
    if not isinstance(captions, list) or not captions:
        return "field 'captions' must be a list of at least one string"
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            return f"field '{_captions_field(layout)}', item {index} is not a string: {caption!r}"
    return ""


def _captions_field(layout: Dataset) -> str:
    """Returns the name that the file itself has for the captions, for messages."""
    return "caption" if layout.is_custom else "captions"
