"""config.on_bad_image=skip and mixed data sets, from the batch to results.json."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import benchmark_folders
from tpr_jax.config.flags import parse_flags
from tpr_jax.data.batches import decode_all, image_batches
from tpr_jax.data.mixture import mix
from tpr_jax.data.pipeline import steps_per_epoch, train_input
from tpr_jax.data.records import Records, caption_pairs
from tpr_jax.errors import UserError
from tpr_jax.train import eval_run, evaluate, loop

SIZE = (8, 4)
PLAIN = {"augment": False, "mask_text": False}


class Tokenizer:
    """Returns ids that identify the caption: its number, several times."""

    mask_id = 90

    def __call__(self, texts):
        return np.array([[91, *[int(text)] * 8, 92] for text in texts], np.int32)


def make_records(folder, pictures=12, first=1):
    """Writes images of one gray level, 10 times their number from `first`, which is also both captions."""
    folder.mkdir(exist_ok=True)
    numbers = range(first, first + pictures)
    for number in numbers:
        Image.new("RGB", (10, 20), (10 * number,) * 3).save(folder / f"{number}.png")
    paths = [str(folder / f"{number}.png") for number in numbers]
    captions = [[str(number)] * 2 for number in numbers]
    return Records(f"{folder.name}:train", paths, captions, np.arange(pictures, dtype=np.int64) + 50)


@pytest.fixture
def records(tmp_path):
    return make_records(tmp_path / "pictures")


def spoil(path, how=0):
    """Makes images missing, empty or invalid."""
    with open(path, "wb") as file:
        file.write(b"text" if how == 2 else b"")
    if how == 0:
        os.unlink(path)


def epochs(records, skipped=None, count=3, start=0, **settings):
    settings = {"image_size": SIZE, "batch_size": 4, "seed": 3, "skipped": skipped, **settings}
    batches = train_input(records, Tokenizer(), **settings)
    found = [batch for epoch in range(count) for batch in batches(epoch, start if epoch == 0 else 0)]
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


@pytest.mark.parametrize("cache", [True, False])
def test_replaces_an_unreadable_example(records, cache):
    whole = epochs(records, cache=cache, **PLAIN)
    bad = [2, 7, 11]
    for how, row in enumerate(bad):
        spoil(records.image_paths[row], how)
    with pytest.raises(UserError, match="png"):
        epochs(records, cache=cache, **PLAIN)
    skipped = {}
    found = epochs(records, skipped, cache=cache, **PLAIN)
    assert list(skipped) and set(skipped) == {records.image_paths[row] for row in bad}
    assert all(path in why for path, why in skipped.items())
    # Readable images stay in place; the other rows hold complete replacement examples.
    was_bad = np.isin(whole["index"] // 2, bad)
    assert was_bad.any()
    for name in found:
        np.testing.assert_array_equal(found[name][~was_bad], whole[name][~was_bad])
    assert not np.isin(found["index"] // 2, bad).any()
    np.testing.assert_array_equal(found["image"][:, 0, 0, 0], 10 * (found["index"] // 2 + 1))
    np.testing.assert_array_equal(found["ids"][:, 1], found["index"] // 2 + 1)
    np.testing.assert_array_equal(found["pid"], found["index"] // 2)
    assert len(set(found["index"][was_bad].tolist())) > 3  # not one stand-in for all


def test_order_with_skips_is_repeatable_and_resumable(records):
    for how, row in enumerate((0, 5)):
        spoil(records.image_paths[row], how)
    whole = epochs(records, {}, cache=False)
    steps = steps_per_epoch(records, 4)
    # A resumed run may know the bad ones from its checkpoint, or not.
    for known in ({}, {records.image_paths[5]: "known"}):
        again = epochs(records, dict(known), cache=False, start=steps - 2)
        for name in whole:
            np.testing.assert_array_equal(again[name], whole[name][4 * (steps - 2) :], name)
    cached = epochs(records, {}, cache=True)
    for name in whole:
        np.testing.assert_array_equal(cached[name], whole[name], name)


def test_no_image_can_be_read(records):
    for path in records.image_paths:
        spoil(path)
    with pytest.raises(UserError, match=r"png: no such image.*nor can any of the 99 images"):
        epochs(records, {}, cache=False)


def test_bulk_decoding_with_unreadable_images(records):
    spoil(records.image_paths[1])
    spoil(records.image_paths[6], 2)
    bad = {}
    images = decode_all(records.image_paths, SIZE, bad=bad)
    assert sorted(bad) == [1, 6] and not images[[1, 6]].any() and images[[0, 5, 7]].all()
    bad = {}
    batches = list(image_batches(records.image_paths, SIZE, 5, bad))
    assert sorted(bad) == [1, 6] and [valid for _, valid in batches] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in batches])[:12], images)


def test_batches_of_a_mixture(records, tmp_path):
    """An epoch has every caption of the first, and another half of those of the second each time."""
    other = make_records(tmp_path / "other", pictures=8, first=13)
    mixed = mix([records, other], [1, 0.5])
    assert steps_per_epoch(mixed, 4) == (24 + 8) // 4
    found = epochs(mixed, count=2, **PLAIN)
    number = found["index"] // 2 + 1
    np.testing.assert_array_equal(found["ids"][:, 1], number)
    np.testing.assert_array_equal(found["image"][:, 0, 0, 0], 10 * number)
    np.testing.assert_array_equal(found["pid"], number - 1)
    halves = [{index for index in epoch.tolist() if index >= 24} for epoch in np.split(found["index"], 2)]
    assert [len(half) for half in halves] == [8, 8] and halves[0] != halves[1]
    # Twice in an epoch, with another augmentation each time.
    twice = epochs(mix([records, other], [1, 2]), count=1, pad=2)
    pair = 30
    first, second = twice["image"][twice["index"] == pair]
    assert (first != second).any()


def encoders():
    def image(variables, images):
        return np.asarray(images, np.float32)[:, 0, 0, :] + (0, 1, 2)

    return image, lambda variables, ids: np.asarray(ids, np.float32)[:, 1:4] * 10


def test_evaluation_skips_unreadable_images_and_their_captions(records):
    split = evaluate.encode_split(encoders(), {}, records, Tokenizer(), SIZE, 5)
    bad = [0, 4, 11]
    for how, row in enumerate(bad):
        spoil(records.image_paths[row], how)
    with pytest.raises(UserError, match=r"1\.png: no such image"):
        evaluate.encode_split(encoders(), {}, records, Tokenizer(), SIZE, 5)
    skipped = {}
    found = evaluate.encode_split(encoders(), {}, records, Tokenizer(), SIZE, 5, skipped=skipped)
    assert set(skipped) == {records.image_paths[row] for row in bad}
    kept = ~np.isin(np.arange(12), bad)
    pairs = kept[caption_pairs(records)[0]]
    assert found.paths == [path for path, keep in zip(split.paths, kept, strict=True) if keep]
    assert found.captions == [text for text, keep in zip(split.captions, pairs, strict=True) if keep]
    for name in ("gallery_feats", "gallery_pids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(split, name)[kept])
    for name in ("query_feats", "query_pids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(split, name)[pairs])
    for path in records.image_paths:
        if path not in skipped:
            spoil(path)
    with pytest.raises(UserError, match="none of its 12 photos can be read"):
        evaluate.encode_split(encoders(), {}, records, Tokenizer(), SIZE, 5, skipped={})


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_run_reports_skipped_images_and_resumes(make_config, own_data, tmp_path, capsys):
    entries = json.loads((own_data / "reid_raw.json").read_text())
    for how, row in enumerate((0, 7, 30, 50)):
        spoil(own_data / "imgs" / entries[row]["file_path"], how % 3)
    settings = {"data_dir": own_data, "on_bad_image": "skip", "num_epochs": 2, "eval_every": 1}
    config = make_config(**settings)
    whole = loop.train(config, tmp_path / "whole")
    said = capsys.readouterr().out
    names = [str(own_data / "imgs" / entries[row]["file_path"]) for row in (0, 7, 30, 50)]
    assert whole["skipped"]["count"] == 4 and whole["skipped"]["test"] == 1
    assert sorted(whole["skipped"]["pictures"]) == sorted(names)
    assert all(f"skipped: {name}" in said for name in names) and "4 photos skipped" in said
    assert whole["data"]["counts"]["train"] == {"identities": 12, "images": 24, "captions": 48}
    assert "a subset of cuhk_pedes: train has 12 identities" in said and len(whole["data"]["subset"]) == 3

    loop.train(make_config(**settings, total_steps=5, checkpoint_every=5), tmp_path / "parts")
    again = loop.train(make_config(**settings), tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 12
    assert again["skipped"] == whole["skipped"] and again["final"]["test"] == whole["final"]["test"]
    assert eval_run.evaluate_run(config, tmp_path / "whole")["skipped"]["count"] == 2  # of val and test
    capsys.readouterr()
    # 'error' is the default; switching to 'skip' does not make it a different run.
    with pytest.raises(UserError, match="no such image"):
        loop.train(make_config(**(settings | {"on_bad_image": "error"})), tmp_path / "parts")


def test_run_on_a_folder_with_a_mixture(make_config, tmp_path, capsys):
    own = benchmark_folders.own_folder(tmp_path / "own", "csv")
    more = benchmark_folders.synth_pedes(tmp_path / "more")
    config = make_config(dataset="folder", data_dir=own, num_epochs=2, eval_every=0, on_bad_image="skip")
    config.mix = (("synth_pedes", str(more), 0.5),)
    outcome = loop.train(config, tmp_path / "run")
    # 20 captions of the folder and half of 14 in batches of 8: 3 steps an epoch.
    assert outcome["steps"] == 6 and outcome["skipped"] == {"count": 0, "test": 0, "pictures": {}}
    assert outcome["data"]["subset"] is None
    assert outcome["data"]["mixed"] == [{"dataset": "synth_pedes", "weight": 0.5}]
    assert outcome["data"]["counts"]["train"] == {"identities": 4, "images": 10, "captions": 20}
    assert (tmp_path / "run" / "report.html").is_file()
    shutil.rmtree(more)  # config.json records the data, and another mixture is a different run
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["mix"] == [["synth_pedes", str(more), 0.5]]
    config.mix = ()
    with pytest.raises(UserError, match=r"config\.mix was"):
        loop.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--config.on_bad_image=ignore", "config.on_bad_image='ignore' is unknown"),
        ("--config.dataset=rstp_ried", "did you mean 'rstp_reid'?"),
        ("--config.dataset=folder", "config.data_dir is missing"),
        ("--config.mix=(('folder','x',0),)", "('folder', 'x', 0) must be (data set, its folder or ''"),
        ("--config.mix=(('folder','x'),)", "('folder', 'x') must be"),
        ("--config.mix=('folder','x',1.0)", "'folder' must be"),
        ("--config.mix=(('floder','x',1.0),)", "data set 'floder' is unknown: did you mean 'folder'?"),
        ("--config.mix=(('folder','/no/such/place',1.0),)", "/no/such/place: no such folder"),
    ],
)
def test_command_lines(flag, told, tiny, tmp_path, explained, capsys):
    extra = ["--config.data_dir="] if flag == "--config.dataset=folder" else []
    line = explained(capsys, "--config", tiny["config"], "--workdir", tmp_path / "run", flag, *extra)
    assert told in line


def test_parses_mix_on_the_command_line(tiny):
    words = ["main", "--config", tiny["config"], "--workdir", "x", "--config.mix=(('folder','a',0.5),)"]
    assert parse_flags(words)[0].mix == (("folder", "a", 0.5),)
