"""The photos to search: those of a folder, or those that a CSV or JSONL file lists with boxes and columns."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tpr_jax.data.boxes import Box
from tpr_jax.data.image_paths import ImagePaths
from tpr_jax.data.images.formats import UNREADABLE
from tpr_jax.data.text_files import SPREADSHEETS
from tpr_jax.errors import UserError
from tpr_jax.search.index.folder import matching_pattern, nfc_path, path_on_disk, unmatched, walk
from tpr_jax.search.index.table import SUFFIXES, TableRow, describe_odd_cells, read_table

__all__ = ["Box", "Gallery", "NoPhotosError", "Photo", "find_gallery"]

_TABLES = (*SPREADSHEETS, ".txt")  # to be saved as CSV


class NoPhotosError(UserError):
    """A source has no photos that can be indexed, which may change."""


SAME_PHOTO = "has the same image and box"  # begins the reason for a repeated line of a table


@dataclass(frozen=True)
class Photo:
    """An image file, or the part of one inside a box.

    Attributes:
      path: relative to the gallery's root, with '/'; a path from a table may be absolute.
      box: (x, y, width, height) in pixels of the upright image; None means the whole image.
      columns: the further columns of a table.
      views: paths of the crops whose mean vector describes a person of a video. `path` is the best of them,
        and the box is in pixels of the video's frame.
    """

    path: str
    box: Box | None = None
    columns: Mapping = field(default_factory=dict, hash=False)
    views: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, Box | None]:
        """The path and box, which identify this photo within the gallery."""
        return self.path, self.box

    @property
    def part(self) -> Box | None:
        """The part of the file at `path` that shows the person; None means all of it."""
        return None if self.views else self.box


@dataclass(frozen=True)
class Gallery:
    """The photos to search, before any image is opened.

    Attributes:
      root: the folder that the photos' paths are relative to.
      photos: the photos.
      skipped: (file, or line of the table; the reason).
      left_out: name or pattern -> number of excluded folders and files, see `walk`.
      sources: absolute paths of the folders and tables that it was made of.
      notes: what was assumed of the columns of a table.
    """

    root: Path
    photos: list[Photo]
    skipped: list[tuple[str, str]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def not_photos(self) -> list[tuple[str, str]]:
        """Returns what was skipped, without further lines of a table for the same photo."""
        return [(name, reason) for name, reason in self.skipped if not reason.startswith(SAME_PHOTO)]


def find_gallery(
    source: str | os.PathLike, leave_out: str | os.PathLike | None = None, exclude: Sequence[str] = ()
) -> Gallery:
    """Finds the photos of a folder and its subfolders, by path, or those that a table lists, by line.

    Hidden files and folders, folders in which systems keep thumbnails and deleted files, and links to folders
    are left out.

    Args:
      source: a folder, or a .csv, .tsv or .jsonl file.
      leave_out: a folder to leave out: the index itself.
      exclude: patterns of files and folders to leave out, see `folder.matching_pattern`.

    Raises:
      UserError: the source does not exist, cannot be read, or has no photos.
    """
    source, notes = Path(source), []
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
        kind = "photos"
    elif source.suffix.lower() in SUFFIXES:
        root, image_paths = source.resolve().parent, ImagePaths()
        rows, skipped = read_table(source, lambda path: path_on_disk(root, path, image_paths))
        patterns = [matching_pattern(row.image, exclude) for row in rows]
        left_out = Counter(pattern for pattern in patterns if pattern)
        unused = unmatched(exclude, (row.image for row in rows))
        left_out.update(dict.fromkeys(unused, 0))
        rows = [row for row, pattern in zip(rows, patterns, strict=True) if not pattern]
        notes = [f"{source}: {note}" for note in describe_odd_cells(rows)]
        photos, duplicates = _distinct_photos(source, rows)
        skipped = [*skipped, *duplicates]
        kind = "usable lines"
    else:
        suffix = source.suffix.lower()
        remedy = "; save it as CSV" if suffix in _TABLES else ""
        if UNREADABLE.get(suffix) == UNREADABLE[".mp4"]:
            remedy = "; add --detect to find the people in a video"
        raise UserError(
            f"{source}: is neither a folder of photos nor a .csv, .tsv or .jsonl that lists them{remedy}"
        )
    if not photos:
        reason = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        hint = "" if not is_folder or skipped else "; looked for .jpg, .png, .webp and the like"
        if +left_out:  # without patterns that matched nothing
            hint += f"; left out: {', '.join(sorted(+left_out))}"
        raise NoPhotosError(f"{source}: has no {kind}{reason}{hint}")
    return Gallery(root, photos, skipped, left_out, (str(source.resolve()),), tuple(notes))


def combine(galleries: Sequence[Gallery]) -> Gallery:
    """Combines galleries into one, with paths relative to the deepest folder that holds all of them.

    Of a photo that several of them have, the first is kept.

    Raises:
      UserError: no folder holds all of them, as on different drives.
    """
    try:
        root = Path(os.path.commonpath([gallery.root for gallery in galleries]))
    except ValueError as error:
        raise UserError(f"{galleries[-1].root}: {error}; index it into another --index") from error
    photos, skipped, left_out = {}, [], Counter()
    for gallery in galleries:
        prefix = gallery.root.relative_to(root)
        for photo in gallery.photos:
            moved = replace(
                photo,
                path=(prefix / photo.path).as_posix(),  # an absolute path stays
                views=tuple((prefix / view).as_posix() for view in photo.views),
            )
            photos.setdefault(moved.key, moved)
        skipped += [((prefix / name).as_posix(), reason) for name, reason in gallery.skipped]
        left_out.update(gallery.left_out)
    sources = tuple(source for gallery in galleries for source in gallery.sources)
    notes = tuple(note for gallery in galleries for note in gallery.notes)
    return Gallery(root, list(photos.values()), skipped, left_out, sources, notes)


def _distinct_photos(source: Path, rows: Sequence[TableRow]) -> tuple[list[Photo], list[tuple[str, str]]]:
    """Returns the photos of a table, and (line, reason) of lines that repeat an earlier photo and box.

    Args:
      source: the table.
      rows: its lines.
    """
    first_line, photos, duplicates = {}, [], []
    for row in rows:
        earlier = first_line.setdefault((nfc_path(row.image), row.box), row.line)
        if earlier == row.line:
            photos.append(Photo(row.image, row.box, row.columns))
        else:
            reason = f"{SAME_PHOTO} as line {earlier}"
            duplicates.append((f"{source.name}: line {row.line}", reason))
    return photos, duplicates
