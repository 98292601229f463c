"""Each value of `index.json` that is missing or of another type."""

import copy

import pytest

from tpr_jax.search.index.info import find_mistake

MODEL = {"name": "m", "sha256": "ab", "image_size": [32, 16], "dtype": "float32", "embed_dim": 4}
INFO = {
    "model": {**MODEL, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "photos": "/photos",
    "sources": ["/photos"],
    "count": 5,
    "skipped": 0,
    "number": 1,
    "approximate": None,
    "files": {"vectors": "vectors-1.npy", "photos": "photos-1.parquet"},
}


def test_accepts_what_every_version_writes():
    earlier = {key: value for key, value in INFO.items() if key not in ("sources", "skipped")}
    added = {"forgotten": 2, "approximate": {"lists": 3}, "store": {"url": "u", "table": "t", "id": "i"}}
    added["files"] = {**INFO["files"], "codes": ["codes-1.json", "codes-1.npy"], "ivf": "ivf-1.faiss"}
    for info in (INFO, earlier | {"model": MODEL}, INFO | added):
        assert find_mistake(info) is None


@pytest.mark.parametrize(
    ("name", "value", "mistake"),
    [
        ("model", 5, "model is 5, not an object"),
        ("model.name", 5, "model.name is 5, not a text"),
        ("model.name", "", "model.name is '', not a text"),
        ("model.name", None, "model.name is missing"),
        ("model.sha256", 5, "model.sha256 is 5, not a text"),
        ("model.image_size", 32, "model.image_size is 32, not two whole numbers above 0"),
        ("model.image_size", [32, 0], "model.image_size is [32, 0], not two whole numbers above 0"),
        ("model.image_size", [32, 16, 3], "model.image_size is [32, 16, 3], not two whole"),
        ("model.image_size", [32, True], "model.image_size is [32, True], not two whole"),
        ("model.dtype", "foo", "model.dtype is 'foo', not one of float32, bfloat16"),
        ("model.dtype", ["float32"], "model.dtype is ['float32'], not one of"),
        ("model.embed_dim", 4.0, "model.embed_dim is 4.0, not a whole number above 0"),
        ("model.mean", "x", "model.mean is 'x', not three numbers"),
        ("model.mean", [0.5, 0.5], "model.mean is [0.5, 0.5], not three numbers"),
        ("model.mean", [0.5, 0.5, float("nan")], "model.mean is [0.5, 0.5, nan], not three numbers"),
        ("model.std", [1, 1, 0], "model.std is [1, 1, 0], not three numbers above 0"),
        ("photos", 5, "photos is 5, not a text"),
        ("sources", 5, "sources is 5, not a list of texts"),
        ("sources", [5], "sources is [5], not a list of texts"),
        ("count", "5", "count is '5', not a whole number"),
        ("count", -1, "count is -1, not a whole number"),
        ("skipped", [], "skipped is [], not a whole number"),
        ("forgotten", "x", "forgotten is 'x', not a whole number"),
        ("number", None, "number is missing"),
        ("approximate", 3, "approximate is 3, not an object"),
        ("files", ["a"], "files is ['a'], not an object"),
        ("files.vectors", 5, "files.vectors is 5, not a text"),
        ("files.photos", None, "files.photos is missing"),
        ("files.codes", "codes-1.npy", "files.codes is 'codes-1.npy', not a list of two texts"),
        ("files.ivf", 5, "files.ivf is 5, not a text"),
        ("store", 5, "store is 5, not an object"),
        ("store", {"url": "u", "table": "t"}, "store.id is missing"),
    ],
)
def test_names_a_value_of_another_type(name, value, mistake):
    info = copy.deepcopy(INFO)
    *parents, key = name.split(".")
    (info[parents[0]] if parents else info)[key] = value
    assert (find_mistake(info) or "").startswith(mistake)


def test_names_a_missing_value():
    del (info := copy.deepcopy(INFO))["approximate"]
    assert find_mistake(info) == "approximate is missing"
    del info["model"]
    assert find_mistake(info | {"approximate": None}) == "model is missing"
