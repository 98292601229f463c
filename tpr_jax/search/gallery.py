"""The photos that are to be searched: those of a folder, or of a CSV or JSONL file with boxes and columns."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.search.table import read_table

# fmt: off
SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
))
# fmt: on
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Photo:
    """A picture, or the part of one within a box (x, y, width, height in pixels of the upright picture)."""

    path: str  # from the gallery's root, with '/'; a path of a table may be absolute
    box: Box | None = None
    columns: Mapping = field(default_factory=dict, hash=False)

    @property
    def key(self) -> tuple[str, Box | None]:
        """What tells it from every other photo of the gallery."""
        return self.path, self.box


@dataclass(frozen=True)
class Gallery:
    """What is to be searched, before any picture was opened."""

    root: Path
    photos: list[Photo]
    skipped: list[tuple[str, str]]  # (file, or line of the table; why it is left out)


def find_gallery(source: str | os.PathLike, leave_out: str | os.PathLike | None = None) -> Gallery:
    """The photos of a folder and its subfolders, by path, or those that a .csv or .jsonl file names, by line.

    `leave_out` is a folder that is not walked: the index itself. Hidden files and folders, and links to
    folders, are passed over.

    Raises:
      UserError: there is nothing of that name, it cannot be read, or it has no photos.
    """
    source = Path(source)
    try:
        is_folder = source.is_dir()
        if not is_folder and not source.exists():
            raise UserError(f"{source}: no such folder or file; give a folder of photos, a .csv or a .jsonl")
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check its permissions") from error
    if is_folder:
        root = source.resolve()
        photos, skipped = _walk(root, Path(leave_out).resolve() if leave_out else None)
        what = "photos"
    elif source.suffix.lower() in (".csv", ".jsonl"):
        root = source.resolve().parent
        rows, skipped = read_table(source)
        photos, skipped = _distinct(source, rows, skipped)
        what = "usable lines"
    else:
        raise UserError(f"{source}: is neither a folder of photos nor a .csv or .jsonl that lists them")
    if not photos:
        why = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        kinds = "" if not is_folder or skipped else "; looked for .jpg, .png, .webp and the like"
        raise UserError(f"{source}: has no {what}{why}{kinds}")
    return Gallery(root, photos, skipped)


def _walk(root: Path, leave_out: Path | None) -> tuple[list[Photo], list[tuple[str, str]]]:
    paths, skipped = [], []

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == root:
            raise UserError(f"{root}: cannot be read ({error.strerror}); check the folder's permissions")
        name = os.path.relpath(error.filename, root)
        skipped.append((printable(name), f"the folder cannot be read ({error.strerror})"))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (leave_out is None or Path(folder, name) != leave_out)
        ]
        for name in files:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
                continue
            path = Path(os.path.relpath(os.path.join(folder, name), root)).as_posix()
            if path == printable(path):
                paths.append(path)
            else:
                skipped.append((printable(path), "its name is not UTF-8: rename it"))
    return [Photo(path) for path in sorted(paths)], sorted(skipped)


def _distinct(
    source: Path, rows: Sequence[tuple[int, str, Box | None, dict]], skipped: list[tuple[str, str]]
) -> tuple[list[Photo], list[tuple[str, str]]]:
    first, photos, skipped = {}, [], list(skipped)
    for number, path, box, columns in rows:
        photo = Photo(Path(path).as_posix(), box, columns)
        earlier = first.setdefault(photo.key, number)
        if earlier == number:
            photos.append(photo)
        else:
            skipped.append((f"{source.name}: line {number}", f"has the picture and box of line {earlier}"))
    return photos, skipped


def printable(name: str) -> str:
    """A file's name with the bytes that are not UTF-8 spelled out, so that it can be printed and stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
