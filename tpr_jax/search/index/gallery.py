"""The photos that are to be searched: those of a folder, or of a CSV or JSONL file with boxes and columns."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.search.index.folder import excluded, on_disk, one_name, walk
from tpr_jax.search.index.table import read_table

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
    left_out: Mapping[str, int] = field(
        default_factory=dict
    )  # name or pattern: folders and files, see `walk`


def find_gallery(
    source: str | os.PathLike, leave_out: str | os.PathLike | None = None, exclude: Sequence[str] = ()
) -> Gallery:
    """The photos of a folder and its subfolders, by path, or those that a .csv or .jsonl file names, by line.

    `leave_out` is a folder that is not walked: the index itself. Hidden files and folders, those in which
    systems keep thumbnails and what was deleted, links to folders, and what the patterns of `exclude` match
    (`folder.excluded`) are left out.

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
        paths, skipped, left_out = walk(root, Path(leave_out).resolve() if leave_out else None, exclude)
        photos = [Photo(path) for path in paths]
        what = "photos"
    elif source.suffix.lower() in (".csv", ".jsonl"):
        root = source.resolve().parent
        rows, skipped = read_table(source)
        patterns = [excluded(Path(path).as_posix(), exclude) for _, path, *_ in rows]
        left_out = Counter(pattern for pattern in patterns if pattern)
        rows = [row for row, pattern in zip(rows, patterns, strict=True) if not pattern]
        photos, skipped = _distinct(source, rows, skipped)
        what = "usable lines"
    else:
        raise UserError(f"{source}: is neither a folder of photos nor a .csv or .jsonl that lists them")
    if not photos:
        why = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        kinds = "" if not is_folder or skipped else "; looked for .jpg, .png, .webp and the like"
        if left_out:
            kinds += f"; left out: {', '.join(sorted(left_out))}"
        raise UserError(f"{source}: has no {what}{why}{kinds}")
    return Gallery(root, photos, skipped, left_out)


def _distinct(
    source: Path, rows: Sequence[tuple[int, str, Box | None, dict]], skipped: list[tuple[str, str]]
) -> tuple[list[Photo], list[tuple[str, str]]]:
    first, photos, skipped = {}, [], list(skipped)
    for number, path, box, columns in rows:
        photo = Photo(on_disk(source.resolve().parent, Path(path).as_posix()), box, columns)
        earlier = first.setdefault((one_name(photo.path), box), number)
        if earlier == number:
            photos.append(photo)
        else:
            skipped.append((f"{source.name}: line {number}", f"has the picture and box of line {earlier}"))
    return photos, skipped
