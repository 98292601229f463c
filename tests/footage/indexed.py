"""Indexes of a small video of two people."""

from tests.footage.videos import mot_lines, write_video
from tpr_jax.search.__main__ import run
from tpr_jax.search.index.store import open_index


def make_source(tmp_path):
    """Returns a folder of a video, beside its boxes."""
    folder = tmp_path / "footage"
    folder.mkdir()
    write_video(folder / "gate.avi")
    (tmp_path / "boxes.txt").write_text(mot_lines(40))
    return folder


def index(source, *flags, boxes="boxes.txt", into="index"):
    place = source.parent if source.is_dir() else source.parent.parent
    run(
        [
            "index",
            str(source),
            "--index",
            str(place / into),
            "--detect",
            str(place / boxes),
            "--pad",
            "0",
            *flags,
        ]
    )
    return open_index(place / into)


def rows(opened):
    return opened.table.drop_columns(["file_size", "file_mtime_ns", "file_sha256"]).to_pylist()
