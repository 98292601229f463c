"""Identities and photos in two splits: found by one rule, listed by data.check, rejected by training."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from tests import benchmark_folders
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.data import check, datasets, leaks, splits
from tpr_jax.data.annotations import Entry, annotation_path
from tpr_jax.data.images.read import Stored
from tpr_jax.data.records import Records, load_all
from tpr_jax.errors import UserError
from tpr_jax.train import setup, writer


def own(folder, *lines, kind="jsonl", photos=("photos/a.jpg", "photos/b.jpg", "photos/c.jpg")):
    """Writes custom data with lines of (image, id, split)."""
    for number, name in enumerate(photos):
        benchmark_folders.draw(folder / name, number)
    fields = [{"image": i, "caption": "a man", "id": pid, "split": split} for i, pid, split in lines]
    benchmark_folders.write_own(folder, fields, kind)
    return folder


def both(folder, dataset="folder") -> leaks.Leaks:
    """Returns what data.check finds, after checking that training finds the same."""
    problems = check.check(dataset, str(folder))["problems"]
    assert "records" not in problems and "annotation" not in problems
    found = leaks.Leaks(*(problems.get(f"{what} in two splits", []) for what in ("identities", "photos")))
    assert leaks.find_in_splits(load_all(folder, dataset)) == found
    return found


A, B = "photos/a.jpg", "photos/b.jpg"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (7, "7", True),
        ("7", " 7", True),
        (7, "7.0", True),
        ("7", "\uff17", True),
        ("Zo\u00eb", "Zoe\u0308", True),
        ("anna", "anna ", True),
        (20231127153000123456, "20231127153000123456", True),
        (7, "07", False),
        ("anna", "Anna", False),
        ("20231127153000123456", "20231127153000123457", False),
    ],
)
def test_a_person_in_two_splits(tmp_path, kind, one, other, same):
    found = both(own(tmp_path, (A, one, "train"), (B, other, "test"), kind=kind))
    assert found == leaks.Leaks([f"identity {one} is in train and test"] if same else [], [])


def test_treats_7_and_7_0_as_one_identity(tmp_path):
    assert both(own(tmp_path, (A, 7, "train"), (B, 7.0, "val"), ("photos/c.jpg", 7, "test"))) == leaks.Leaks(
        ["identity 7 is in train and val and test"], []
    )


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "other",
    [
        "photos/a.jpg",
        "./photos/a.jpg",
        "photos/../photos/a.jpg",
        "photos//a.jpg",
        "photos\\a.jpg",
        "linked/a.jpg",
        "link.jpg",
        "{folder}/photos/a.jpg",
    ],
)
def test_a_photo_in_two_splits(tmp_path, kind, other):
    os.symlink("photos", tmp_path / "linked")
    os.symlink("photos/a.jpg", tmp_path / "link.jpg")
    found = both(own(tmp_path, (A, 1, "train"), (other.format(folder=tmp_path), 2, "test"), kind=kind))
    assert found.people == [] and len(found.photos) == 1
    told, _, also = found.photos[0].partition(" (also named ")
    assert told == f"photo {tmp_path}/photos/a.jpg is in train and test"
    where = other.format(folder=tmp_path).replace("\\", "/")
    second = os.path.join(tmp_path, where)
    assert also == ("" if second == f"{tmp_path}/photos/a.jpg" else f"{second})")


@pytest.mark.parametrize("there", ["caf\u00e9.jpg", "cafe\u0301.jpg"])
def test_a_photo_by_both_forms_of_its_name(tmp_path, there):
    lines = [("caf\u00e9.jpg", 1, "train"), ("cafe\u0301.jpg", 2, "test")]
    (line,) = both(own(tmp_path, *lines, photos=[there])).photos
    assert line == f"photo {tmp_path}/{there} is in train and test"


@pytest.mark.parametrize("dataset", ["cuhk_pedes", "icfg_pedes", "rstp_reid", "ufine6926"])
def test_every_layout(tmp_path, dataset):
    folder = benchmark_folders.ALL[dataset](tmp_path)
    assert both(folder, dataset) == leaks.Leaks([], [])
    path = annotation_path(dataset, folder)
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    field = "img_path" if dataset == "rstp_reid" else "file_path"
    picture, person = entries[0][field], entries[2]["id"]
    train = next(e for e in entries if e["id"] == person)["split"]
    assert train == entries[0]["split"] == "train"
    entries[-1][field] = f"./{picture}"
    entries[-2]["id"] = person
    with open(path, "w", encoding="utf-8") as file:
        json.dump(entries, file)
    found = both(folder, dataset)
    assert found.people == [f"identity {person} is in train and test"]
    assert len(found.photos) == 1 and f"{picture} is in train and test" in found.photos[0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (None, None, True),
        (None, (3, 3, 2, 2), True),
        ((0, 0, 10, 20), (0, 0, 10, 20), True),
        ((0, 0, 10, 20), (1, 0, 10, 20), True),  # drawn again
        ((0, 0, 10, 20), (2, 2, 5, 5), True),  # within
        ((0, 0, 10, 20), (5, 0, 10, 20), True),  # half overlaps
        ((0, 0, 10, 20), (6, 0, 10, 20), False),
        ((0, 0, 10, 20), (10, 0, 10, 20), False),  # next to each other
        ((0, 0, 10, 20), (90, 90, 10, 20), False),
        ((0, 0, 10, 20), (-20, -30, 10, 20), False),  # both distances negative
    ],
)
def test_boxes_of_one_photo(one, other, same):
    assert leaks.boxes_overlap(one, other) is leaks.boxes_overlap(other, one) is same
    entries = [Entry("1", "train", "a", ["x"], 1, one), Entry("2", "test", "a", ["x"], 2, other)]
    assert len(leaks.find_in_entries(entries).photos) == same


def test_names_only_the_splits_that_share_a_photo():
    boxes = [("train", (0, 0, 10, 10)), ("val", (50, 0, 10, 10)), ("test", (1, 0, 10, 10))]
    rows = [leaks.ImageRow(split, str(i), "a", box, "a.jpg") for i, (split, box) in enumerate(boxes)]
    assert leaks.shared_photos(rows) == ["photo a.jpg is in train and test"]


def test_compares_prepared_records_by_their_names():
    def split(*names):
        files = [Stored(f"x:{name}", b"") for name in names]
        return Records("x", list(names), [["a"]] * len(names), np.arange(len(names)), stored=files)

    one = split("imgs/a.jpg", "imgs/caf\u00e9.jpg")
    other = split("imgs/b.jpg", "imgs/cafe\u0301.jpg")
    found = leaks.find_in_splits({"train": one, "test": other})
    assert found.people == ["identity 0 is in train and test", "identity 1 is in train and test"]
    told = "photo imgs/caf\u00e9.jpg is in train and test (also named imgs/cafe\u0301.jpg)"
    assert found.photos == [told]


def test_reports_identities_by_their_names():
    """Records number the identities; messages use the annotation's names."""
    records = [
        Records("x", [path], [["a"]], np.array([pid]), names=[name])
        for path, pid, name in (("a", 0, "anna"), ("b", 0, "anna"), ("c", 1, "ben"))
    ]
    splits = dict(zip(("train", "val", "test"), records, strict=True))
    assert leaks.find_in_splits(splits).people == ["identity anna is in train and val"]


def test_raises_or_warns(capsys):
    none, some = leaks.Leaks([], []), leaks.Leaks(["identity 7 is in train and test"], [])
    assert leaks.raise_or_warn(none, "x", "error", False) == {}
    with pytest.raises(UserError) as error:
        leaks.raise_or_warn(some, "x", "error", False)
    told = "x: 1 identity is in two splits: identity 7 is in train and test"
    assert str(error.value).startswith(f"{told}; ") and str(error.value).endswith("--config.on_leak=warn")
    assert "\n" not in str(error.value) and capsys.readouterr().out == ""
    facts = {"in_two_splits": {"identities": 1, "photos": 0}}
    assert leaks.raise_or_warn(some, "x", "warn", False) == facts
    assert capsys.readouterr().out == f"warning: {told}\n"
    assert leaks.raise_or_warn(some, "x", "error", official=True) == facts  # the authors made those splits
    many = leaks.Leaks(["a", "b"], ["c"])
    leaks.raise_or_warn(many, "x", "warn", False)
    expected = "warning: x: 2 identities and 1 photo are in two splits, the first: a\n"
    assert capsys.readouterr().out.endswith(expected)


def settings(tiny, folder, *more):
    flags = ["--config", tiny["config"], "--workdir", "unused", "--config.dataset=folder"]
    return ["main", *flags, f"--config.data_dir={folder}", *more]


def test_training_fails_with_one_line(tiny, explained, capsys, tmp_path):
    folder = own(tmp_path / "own", (A, 7, "train"), ("photos/c.jpg", 8, "train"), (B, "7", "test"))
    workdir = tmp_path / "run"
    line = explained(capsys, *settings(tiny, folder)[1:3], "--workdir", workdir, *settings(tiny, folder)[5:])
    assert "identity 7 is in train and test" in line and "--config.on_leak=warn" in line
    assert not (workdir / "checkpoints").exists()
    run = setup.prepare(parse_flags(settings(tiny, folder, "--config.on_leak=warn"))[0])
    assert run.data["in_two_splits"] == {"identities": 1, "photos": 0}
    assert "identity 7 is in train and test" in capsys.readouterr().out


def test_resumes_a_run_from_before_the_key_existed(tmp_path):
    """A run that stopped at an error may also resume with a warning."""
    now = config_lib.to_plain(config_lib.base())
    before = {key: value for key, value in now.items() if key != "on_leak"}
    for old in (before, now):
        (tmp_path / "config.json").write_text(json.dumps(old))
        writer.check_workdir(tmp_path, now | {"on_leak": "warn"}, config_lib.FREE_ON_RESUME)
    assert now["on_leak"] == "error"


def test_rejects_an_unknown_value(explained, capsys, tiny):
    line = explained(capsys, *settings(tiny, "x", "--config.on_leak=warm")[1:])
    assert "config.on_leak='warm'" in line and "'warn'" in line


@pytest.mark.parametrize("how", ["absolute", "linked folder", "linked photo"])
def test_finds_test_photos_in_mixed_data(tiny, tmp_path, how):
    """Ids of two data sets are unrelated, but files can be compared."""
    home = own(tmp_path / "home", (A, 1, "train"), (B, 2, "test"))
    photo = {
        "absolute": f"{home}/photos/b.jpg",
        "linked folder": "theirs/b.jpg",
        "linked photo": "mine.jpg",
    }[how]
    (tmp_path / "guest").mkdir()
    os.symlink(home / "photos", tmp_path / "guest" / "theirs")
    os.symlink(home / "photos" / "b.jpg", tmp_path / "guest" / "mine.jpg")
    guest = own(tmp_path / "guest", (photo, 5, "train"), ("x.jpg", 2, "train"), photos=["x.jpg"])
    mix = f"--config.mix=(('folder','{guest}',1.0),)"
    config = parse_flags(settings(tiny, home, mix))[0]
    with pytest.raises(
        UserError, match=r"home: 1 photo is in two splits: photo .*(b.jpg is in train|also named .*b.jpg)"
    ):
        setup.prepare(config)
    config.on_leak = "warn"
    assert setup.prepare(config).data["in_two_splits"] == {"identities": 0, "photos": 1}


def test_few_shot_does_not_hide_leaks(tiny, tmp_path):
    """Chance decides which identities remain, so another fraction would train on the others."""
    lines = [(A, 7, "train"), ("photos/c.jpg", 8, "train"), (B, 7, "test")]
    folder = own(tmp_path / "own", *lines)
    for seed in range(4):
        config = parse_flags(
            settings(tiny, folder, "--config.few_shot=0.5", f"--config.few_shot_seed={seed}")
        )[0]
        with pytest.raises(UserError, match="identity 7 is in train and test"):
            setup.prepare(config)


def test_official_splits_only_warn(tiny, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny["data"], tmp_path / "data")
    entries = json.loads((folder / "reid_raw.json").read_text())
    entries[-1]["id"] = entries[0]["id"]
    (folder / "reid_raw.json").write_text(json.dumps(entries))
    config = parse_flags(
        ["main", "--config", tiny["config"], "--workdir", "unused", f"--config.data_dir={folder}"]
    )[0]
    with pytest.raises(UserError, match="identity 1 is in train and test"):
        setup.prepare(config)
    counts = splits.count_records(splits.load_splits("cuhk_pedes", str(folder)))
    official = dataclasses.replace(datasets.DATASETS["cuhk_pedes"], counts=counts)
    monkeypatch.setitem(datasets.DATASETS, "cuhk_pedes", official)
    assert setup.prepare(config).data["in_two_splits"] == {"identities": 1, "photos": 0}
    # Equal totals do not say that the splits are the authors' own.
    totals = {"all": datasets.Counts(*map(sum, zip(*counts.values(), strict=True)))}
    monkeypatch.setitem(
        datasets.DATASETS, "cuhk_pedes", dataclasses.replace(datasets.DATASETS["cuhk_pedes"], counts=totals)
    )
    assert datasets.count_deviations("cuhk_pedes", counts) == []
    with pytest.raises(UserError, match="identity 1 is in train and test"):
        setup.prepare(config)


def test_the_bundled_data_set_has_no_leaks():
    assert leaks.find_in_splits(splits.load_splits("mini_pedes", "")) == leaks.Leaks([], [])
