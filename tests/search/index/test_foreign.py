"""A new index does not replace or remove what a user has in its folder."""

import os

import pytest

from tpr_jax.errors import UserError
from tpr_jax.search.index import foreign

SHARD = f"parts/part-00000001-{'0' * 32}.npz"
SCAN = "crops/gate-0123456789ab"


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["crops/cam0/1.jpg"], "crops/cam0"),
        (["crops/1.jpg"], "crops/1.jpg"),
        (["crops/party-202405011200/1.jpg"], "crops/party-202405011200"),  # named like a scan
        ([f"{SCAN}/tracks.json", f"{SCAN}/note.txt"], SCAN),
        (["crops/photos-mine.jsonl"], "crops/photos-mine.jsonl"),
        (["parts/body_parts.npz"], "parts/body_parts.npz"),
        ([SHARD, "parts/body_parts.npz"], "parts/body_parts.npz"),
        (["vectors-1.npy"], "vectors-1.npy"),
        (["photos-7.parquet"], "photos-7.parquet"),
        (["skipped.jsonl"], "skipped.jsonl"),
        (["chance.npz"], "chance.npz"),
        ([SHARD, "chance.npz"], "chance.npz"),
    ],
)
def test_names_the_first_file_that_would_be_lost(tmp_path, names, first):
    put(tmp_path, *names)
    with pytest.raises(UserError) as raised:
        foreign.check_new(tmp_path)
    assert str(raised.value) == (
        f"--index {tmp_path}: holds {first}, which a new index would replace or remove: choose another "
        "--index, or move it"
    )


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["notes.txt", "vectors-mine.npy", "photos-of-2023.parquet", "codes-of-cameras.csv", "photos/1.jpg"],
        ["crops/.DS_Store", "parts/.DS_Store"],
        # What killed runs leave: encoding, writing the index, and searching people.
        [SHARD, "parts/.part-00000002.npz.ab.tmp"],
        [SHARD, "vectors-1.npy", "photos-1.parquet", "codes-1.npy", "codes-1.json", "skipped.jsonl"],
        [f"{SCAN}/journal.jsonl", f"{SCAN}/f000120-03.jpg", f"{SCAN}/.f000130-00.jpg.ab.tmp"],
        ["footage.json", f"{SCAN}/tracks.json", f"{SCAN}/f000120-03.jpg", f"crops/photos-{'a' * 16}.jsonl"],
        ["forgotten.json"],
    ],
)
def test_other_files_and_those_of_killed_runs_are_no_obstacle(tmp_path, names):
    put(tmp_path, *names)
    foreign.check_new(tmp_path)
    foreign.check_new(tmp_path / "none")


@pytest.mark.parametrize("name", ["crops", "crops/cam0", "parts"])
def test_photos_are_not_where_an_index_keeps_its_files(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / name)
    for source in (tmp_path / name, tmp_path / "link", os.path.join(tmp_path, "x", "..", name)):
        with pytest.raises(
            UserError, match=f"keeps files of its own in .*{name[:5]}, where .* is: choose another"
        ):
            foreign.check_source(tmp_path, source)
    foreign.check_source(tmp_path / "index", tmp_path / name)
    foreign.check_source(tmp_path, tmp_path / "crops-of-mine")
