"""What was scanned for an index, and with which options: the file `footage.json`."""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tpr_jax.errors import UserError
from tpr_jax.utils.files import write_json

MANIFEST = "footage.json"
_VERSION = 1


@dataclass(frozen=True)
class FootageOptions:
    """How people are searched in videos and photos.

    Attributes:
      detect: `hog`, an .onnx file, or boxes that exist, see `footage.boxes.read_box_file`.
      every: seconds between two frames.
      start: seconds from the start of each video.
      end: seconds from the start of each video; None for its end.
      camera: the column `camera`; None for the name of the file.
      clock: ISO 8601 time at which each video begins; None counts seconds from its start.
      min_height: the minimum height of a person in pixels.
      score: the minimum score of a box; None for the detector's own.
      pad: share of its sides by which a box is enlarged on each side.
      keep_crops: keep all crops whose vectors are averaged, not only the best one.
      tracks: join the boxes of neighboring frames; if not, each box is a row.
    """

    detect: str = "hog"
    every: float = 0.5
    start: float = 0.0
    end: float | None = None
    camera: str | None = None
    clock: str | None = None
    min_height: float = 40.0
    score: float | None = None
    pad: float = 0.05
    keep_crops: bool = False
    tracks: bool = True


def check_options(options: FootageOptions) -> None:
    """Checks the values. Raises UserError that names the flag."""
    numbers = {"every": options.every, "start": options.start, "pad": options.pad}
    numbers |= {"min_height": options.min_height}
    for name, value in numbers.items():
        if not 0 <= value < float("inf"):
            raise UserError(f"--{name} {value}: must be 0 or more")
    if options.pad > 1:
        raise UserError(f"--pad {options.pad}: must be at most 1, the whole side of a box")
    if options.end is not None and not options.end > options.start:
        raise UserError(f"--end {options.end}: must be after --start {options.start}")
    if options.clock is not None:
        parse_clock(options.clock)


def parse_clock(text: str) -> datetime:
    """Parses an ISO 8601 time. Raises UserError that names the flag."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--clock {text}: must be a time such as '2024-05-01 10:00'") from None


def source_key(source: str | os.PathLike) -> str:
    """Returns the name of a source in `index.json` and `footage.json`."""
    return str(Path(source).resolve())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the content of `footage.json`, without sources if there is none.

    Raises:
      UserError: the file cannot be read, or is of another version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {"version": _VERSION, "sources": {}}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / MANIFEST}: cannot be read ({error}); remove it and index again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("version") != _VERSION:
        raise UserError(f"{folder / MANIFEST}: is of another version of tpr_jax; index into a new folder")
    return manifest


def record(folder: Path, source: str | os.PathLike, entry: dict) -> None:
    """Records what `scan_source` found in a source."""
    manifest = read_manifest(folder)
    manifest["sources"][source_key(source)] = entry
    write_json(folder / MANIFEST, manifest)


def recorded_options(folder: str | os.PathLike, source: str | os.PathLike) -> FootageOptions | None:
    """Returns the options with which a source was scanned before, None if it was not."""
    entry = read_manifest(Path(folder))["sources"].get(source_key(source))
    return FootageOptions(**entry["options"]) if entry else None
