"""Training from prepared records equals training from the folder, bit for bit."""

import json

import numpy as np
import pytest

from tests import benchmark_folders
from tpr_jax.data import leaks
from tpr_jax.data import splits as splits_lib
from tpr_jax.data.images.read import Stored, read_image
from tpr_jax.data.mixture import mix
from tpr_jax.data.pipeline import train_input
from tpr_jax.data.records import image_sources
from tpr_jax.errors import UserError
from tpr_jax.train import loop

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_datasets")
from tpr_jax.data.tfds_builders import __main__ as command
from tpr_jax.data.tfds_builders import read


class Tokenizer:
    mask_id = 90

    def __call__(self, texts):
        return np.array([[91, len(text), *text.encode()[:6], 92] for text in texts], np.int32)


def prepared(dataset, folder, out, kind) -> str:
    flags = [dataset, "--manual_dir", str(folder), "--data_dir", str(out), "--config", kind]
    assert command.main(flags) == 0
    return str(out)


def epoch(records, image_size=(384, 128), **settings):
    settings = {"image_size": image_size, "batch_size": 4, "seed": 1, **settings}
    return list(train_input(records, Tokenizer(), **settings)(1))


def assert_same(left, right):
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize(("dataset", "kind"), [("rstp_reid", "sized"), ("cuhk_pedes", "original")])
def test_batches_equal_those_of_the_folder(dataset, kind, hold, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "CACHE_BYTES", 2**30 if hold else 0)
    folder = benchmark_folders.ALL[dataset](tmp_path / "copy")
    out = prepared(dataset, folder, tmp_path / "out", kind)
    whole = splits_lib.load_splits(dataset, str(folder))
    found = splits_lib.load_splits(dataset, out, source=f"tfds_{kind}")
    assert list(found) == list(whole)
    for name, records in whole.items():
        assert found[name].captions == records.captions
        np.testing.assert_array_equal(found[name].pids, records.pids)
        # So that a run may change its source.
        assert splits_lib.annotation_digest(found[name]) == splits_lib.annotation_digest(records)
        for source in image_sources(found[name]):
            assert isinstance(source, Stored) and isinstance(source.data, bytes) == hold
    assert splits_lib.describe(dataset, found)["counts"] == splits_lib.describe(dataset, whole)["counts"]
    assert_same(epoch(found["train"]), epoch(whole["train"]))
    if kind == "original":  # at another size too, and mixed with a folder's
        assert_same(epoch(found["train"], (40, 20)), epoch(whole["train"], (40, 20)))
        mixed = [mix([splits["train"], whole["test"]], [1, 0.5]) for splits in (found, whole)]
        assert_same(*(epoch(records, (40, 20)) for records in mixed))


def test_missing_records_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no prepared records: write them with .* rstp_reid --config sized"):
        splits_lib.load_splits("rstp_reid", str(tmp_path), source="tfds_sized")
    with pytest.raises(UserError, match=r"config.data_dir is missing: config.source='tfds_original' needs"):
        splits_lib.load_splits("rstp_reid", "", source="tfds_original")


def test_damaged_shards_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "CACHE_BYTES", 0)
    out = prepared("rstp_reid", benchmark_folders.rstp_reid(tmp_path / "copy"), tmp_path / "out", "original")
    (shard,) = (tmp_path / "out").rglob("*train.tfrecord*")
    records, whole = splits_lib.load_splits("rstp_reid", out, source="tfds_original"), shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{shard}: cannot be read"):
        splits_lib.load_splits("rstp_reid", out, source="tfds_original")
    shard.unlink()
    with pytest.raises(UserError, match=f"^rstp_reid:train/.*: cannot be read from {shard}"):
        read_image(image_sources(records["train"])[-1])


def test_a_damaged_picture_is_named():
    with pytest.raises(UserError, match=r"^rstp_reid:train/a.jpg: not an image"):
        read_image(Stored("rstp_reid:train/a.jpg", b"text"))


def test_a_run_from_records_is_the_run_from_the_folder(tiny, make_config, tmp_path):
    out = prepared("cuhk_pedes", tiny["data"], tmp_path / "out", "original")
    settings = {"total_steps": 4, "eval_every": 0}
    left = loop.train(make_config(**settings), tmp_path / "files")
    right = loop.train(make_config(**settings, data_dir=out, source="tfds_original"), tmp_path / "records")
    rows = lambda name: (tmp_path / name / "metrics.jsonl").read_text().splitlines()  # noqa: E731
    losses = [[json.loads(line).get("loss") for line in rows(name)] for name in ("files", "records")]
    assert losses[0] == losses[1] and len(losses[0]) >= 4
    assert left["final"] == right["final"] and left["data"] == right["data"]
    assert (tmp_path / "records" / "report.html").is_file()


def test_names_an_unreadable_bucket(monkeypatch):
    def refuse(path):
        raise read.tf.errors.PermissionDeniedError(None, None, f"no storage.objects.get access\n{path}")

    monkeypatch.setattr(read.tf.io.gfile, "exists", refuse)
    with pytest.raises(UserError, match=r"^gs://bucket/cuhk_pedes/sized/.*: cannot be read \(no storage.*"):
        splits_lib.load_splits("cuhk_pedes", "gs://bucket", source="tfds_sized")


def test_people_and_photos_in_two_splits_are_found_in_prepared_records_too(tmp_path):
    folder = benchmark_folders.rstp_reid(tmp_path / "copy")
    path = folder / "data_captions.json"
    entries = json.loads(path.read_text())
    assert (entries[0]["split"], entries[-1]["split"]) == ("train", "test")
    entries[-1] |= {"id": entries[0]["id"], "img_path": f"./{entries[0]['img_path']}"}
    path.write_text(json.dumps(entries))
    out = prepared("rstp_reid", folder, tmp_path / "out", "sized")
    found = leaks.find_in_splits(splits_lib.load_splits("rstp_reid", out, source="tfds_sized"))
    assert found.people == [f"identity {entries[0]['id']} is in train and test"]
    assert found.photos == [f"photo imgs/{entries[0]['img_path']} is in train and test"]
