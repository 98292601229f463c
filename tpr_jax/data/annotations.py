"""Annotations of the benchmarks -> entries of one form, and everything that is wrong with them."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from tpr_jax.data import custom
from tpr_jax.data.clean_text import replace_surrogates
from tpr_jax.data.identity import identity
from tpr_jax.data.photos import Photos, is_path
from tpr_jax.data.text_files import named_twice
from tpr_jax.errors import UserError

SPLITS = ("train", "val", "test")


class Layout(NamedTuple):
    """How a benchmark's folder is laid out: its annotation is a JSON list of objects."""

    annotations: tuple[str, ...]  # the names it goes by; the first that is there is read
    images: str = "imgs"  # the folder that the paths in the annotation start from
    path_field: str = "file_path"
    split: str = ""  # the split of all records, where the annotation names none


CUHK_PEDES = Layout(("reid_raw.json",))
LAYOUTS = {
    "mini_pedes": CUHK_PEDES,
    "cuhk_pedes": CUHK_PEDES,
    # The last two are not its authors' names, but those of copies that are about.
    "icfg_pedes": Layout(
        ("ICFG-PEDES.json", "ICFG_PEDES.json", "ICFG.json", os.path.join("annotations", "ICFG-PEDES.json"))
    ),
    "rstp_reid": Layout(("data_captions.json",), path_field="img_path"),
    # The annotation's fields are published, its file's name is not: the one JSON file of the folder.
    "ufine6926": Layout(("*.json",), images=""),
    # For pre-training: no splits. `attributes` and `prompt_caption` are not read.
    "synth_pedes": Layout(("synthpedes_dataset.json", "synthpedes-dataset.json"), images="", split="train"),
}
DATASETS = (*LAYOUTS, "folder")


class Entry(NamedTuple):
    """One picture of an annotation."""

    where: str  # file and record, for messages
    split: str
    image: str  # the picture's path
    captions: list[str]  # may be empty after a problem
    pid: int | str  # as of `identity`: whoever has the same `str` of it is the same person
    box: tuple[int, int, int, int] | None = None  # x, y, width, height: the part of the picture that counts
    name: str = ""  # what the annotation calls the person, where `records` has made a number of it


class Problem(NamedTuple):
    """Something wrong with an annotation."""

    kind: str  # 'records' or 'empty captions'
    message: str  # one line that names file, record and field


def read_entries(dataset: str, data_dir: str | os.PathLike) -> tuple[list[Entry], list[Problem]]:
    """All records of a data set's annotation, in its order, and all that is wrong with it.

    A record that cannot be used is among the problems only; one of whose captions some are empty has the
    others.

    Raises:
      UserError: no such folder or annotation, or one that is not in its format at all.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"{data_dir}: no such folder: set data_dir to the benchmark's folder")
    path = annotation_path(dataset, data_dir)
    if dataset == "folder":
        rows, folder, layout = custom.read_rows(path), data_dir, Layout((), path_field="image")
    else:
        layout = LAYOUTS[dataset]
        rows, folder = enumerate(_read_json(path)), os.path.join(data_dir, layout.images)
    entries, problems, photos = [], [], Photos()
    own = dataset == "folder"
    for number, fields in rows:
        where = f"{path}: {'line' if own else 'record'} {number}"
        entry, found = _parse(fields, where, layout, folder, own, photos)
        problems += found
        if entry is not None:
            entries.append(entry)
    return entries, problems


def annotation_path(dataset: str, data_dir: str | os.PathLike) -> str:
    """The file that holds a data set's annotation.

    Raises:
      UserError: there is none, or more than one that could be it.
    """
    names = custom.FILES if dataset == "folder" else LAYOUTS[dataset].annotations
    for name in names:
        found = sorted(str(path) for path in Path(data_dir).glob(name) if path.is_file())
        if len(found) > 1:
            raise UserError(f"{data_dir}: holds {len(found)} files {name}: leave only the annotation there")
        if found:
            return found[0]
    pictures = "the pictures"
    if dataset != "folder" and LAYOUTS[dataset].images:
        pictures += f" in {LAYOUTS[dataset].images}/"
    first, *others = names
    wanted = f"{first} (or {', '.join(others)})" if others else first
    raise UserError(
        f"{os.path.join(data_dir, first)}: no such file: data_dir must hold {wanted} and {pictures}"
    )


def _read_json(path: str) -> list:
    try:
        with open(path, encoding="utf-8-sig") as file:  # some copies start with a byte-order mark
            entries = json.load(file, object_pairs_hook=_object)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}): get a whole copy of the annotation") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the file's permissions") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: must be a list of records, not {type(entries).__name__}")
    return entries


def _object(pairs: list[tuple[str, object]]) -> dict | custom.Unusable:
    """An object of the annotation, unless it names a field twice, of which JSON would take the last."""
    twice = named_twice(pairs)
    return custom.Unusable(f"names field '{twice}' twice: leave one out") if twice else dict(pairs)


def _parse(
    fields, where: str, layout: Layout, folder, own: bool, photos: Photos
) -> tuple[Entry | None, list[Problem]]:
    """The entry of one record, None where it cannot be used, and what is wrong with it."""
    message = _unusable(fields, layout, own)
    if message:
        return None, [Problem("records", f"{where}: {message}")]
    field = "caption" if own else "captions"
    empty = [
        Problem("empty captions", f"{where}: field '{field}', item {index} is empty: fix it or leave it out")
        for index, caption in enumerate(fields["captions"])
        if not caption.strip()
    ]
    entry = Entry(
        where=where,
        split=layout.split or fields["split"],
        image=photos.path(folder, fields[layout.path_field]),
        captions=[replace_surrogates(caption) for caption in fields["captions"] if caption.strip()],
        pid=identity(fields["id"]),
        box=fields["box"] if own else None,
    )
    return entry, empty


def _unusable(fields, layout: Layout, own: bool) -> str:
    """Why a record cannot be used, or nothing."""
    if isinstance(fields, custom.Unusable):
        return fields.reason
    if not isinstance(fields, dict):
        return f"must be an object with fields, not {type(fields).__name__}"
    for field in (*(() if layout.split else ("split",)), "captions", layout.path_field, "id"):
        if field not in fields:
            return f"field '{field}' is missing"
    if not layout.split and fields["split"] not in SPLITS:
        return f"field 'split' is {fields['split']!r}: must be one of {', '.join(SPLITS)}"
    path = fields[layout.path_field]
    if not isinstance(path, str) or not path:
        return f"field '{layout.path_field}' is {path!r}: must be a picture's name"
    if not is_path(path):
        return f"field '{layout.path_field}' is {path!r}: no file can have that name: fix the annotation"
    pid = fields["id"]
    # JSON's true is a Python int; ids beyond int64 would overflow in Records.
    whole = isinstance(pid, int) and not isinstance(pid, bool) and -(2**63) <= pid < 2**63
    if not whole and not (own and isinstance(pid, str) and pid.strip()):
        return f"field 'id' is {pid!r}: must be a whole number{' or a name' if own else ''}"
    captions = fields["captions"]
    if not isinstance(captions, list) or not captions:
        return "field 'captions' must be a list of at least one text"
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            return f"field '{'caption' if own else 'captions'}', item {index} is not a text: {caption!r}"
    return ""
