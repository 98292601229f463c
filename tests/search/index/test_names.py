"""The names that an index writes and removes, and no others."""

import re

import pytest

from tpr_jax.search.index import names


@pytest.mark.parametrize(
    "name",
    [
        *("index.json", "footage.json", "forgotten.json", "chance.npz", "skipped.jsonl"),
        *("vectors-1.npy", "photos-12.parquet", "codes-3.npy", "codes-3.json", "ivf-2.faiss"),
        *(f"part-00000001-{'0' * 32}.npz", f"{'a' * 16}-{'f' * 32}.npz"),
    ],
)
def test_files_of_an_index(name):
    assert re.fullmatch(names.FILES, name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "vectors-mine.npy",
            "photos-2023.csv",
            "codes-of-cameras.csv",
            "codes-1.csv",
            "photos-1.parquet.bak",
        ),
        *("body_parts.npz", "part-1.npz", "ivf-.faiss", "index.jsonl", "results.json"),
    ],
)
def test_other_files(name):
    assert not re.fullmatch(names.FILES, name)


def test_results_of_photos_are_those_of_a_scan(tmp_path):
    (tmp_path / "crops").mkdir()
    for name in (f"photos-{'0' * 16}.jsonl", "photos-mine.jsonl"):
        (tmp_path / "crops" / name).touch()
    assert [path.name for path in names.scanned_photos(tmp_path)] == [f"photos-{'0' * 16}.jsonl"]
