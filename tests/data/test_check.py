"""`python -m tpr_jax.data.check`: a complete folder, every kind of damage, and the exit codes."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests import benchmark_folders
from tpr_jax.data import check
from tpr_jax.data.annotations import Entry
from tpr_jax.data.datasets import DATASETS, Counts


@pytest.fixture
def official(monkeypatch):
    """Replaces the official counts by the fixtures' own, so that a fixture is a complete copy."""
    counts = {
        "cuhk_pedes": {
            "train": Counts(4, 8, 18),
            "val": Counts(2, 4, 9),
            "test": Counts(3, 6, 13),
        },
        "icfg_pedes": {"train": Counts(4, 12, 12), "test": Counts(3, 9, 9)},
        "rstp_reid": {
            "train": Counts(4, 20, 40),
            "val": Counts(2, 10, 20),
            "test": Counts(3, 15, 30),
        },
    }
    for name, splits in counts.items():
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], counts=splits))


@pytest.mark.parametrize(
    "dataset", ["cuhk_pedes", "icfg_pedes", "rstp_reid", "luperson_mllm", "ham_pedes", "webperson", "folder"]
)
def test_a_complete_copy_has_no_problems(dataset, official, tmp_path, capsys):
    folder = benchmark_folders.ALL[dataset](tmp_path / "copy")
    result = check.check(dataset, folder)
    assert result["problems"] == {} and result["whole"]
    assert check.main([dataset, "--data_dir", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("\nwhole\n")


def test_a_subset_is_not_complete(tmp_path):
    result = check.check("rstp_reid", benchmark_folders.rstp_reid(tmp_path))
    assert not result["whole"] and list(result["problems"]) == ["counts"]
    assert len(result["problems"]["counts"]) == 3
    assert result["official"]["val"] == {"identities": 200, "images": 1000, "captions": 2000}


def damaged(folder):
    """Damages a copy of CUHK-PEDES' layout in every way at once: no problem may hide another."""
    path = folder / "reid_raw.json"
    entries = json.loads(path.read_text())
    pictures = folder / "imgs"
    (pictures / entries[0]["file_path"]).unlink()
    (pictures / entries[17]["file_path"]).unlink()
    content = (pictures / entries[1]["file_path"]).read_bytes()
    (pictures / entries[1]["file_path"]).write_bytes(content[: len(content) // 2])
    (pictures / entries[2]["file_path"]).write_bytes(b"")
    (pictures / entries[3]["file_path"]).write_bytes(b"<html>not found</html>")
    entries[4]["captions"][1] = " "
    entries[5]["captions"][0] = "a man " + "and a woman " * 40
    entries[16]["id"] = entries[0]["id"]  # of train, here in test
    entries[17]["file_path"], entries[15]["file_path"] = entries[17]["file_path"], entries[14]["file_path"]
    del entries[8]["captions"]
    path.write_text(json.dumps(entries))
    return entries


def test_finds_every_kind_of_damage_at_once(official, tmp_path):
    entries = damaged(benchmark_folders.cuhk_pedes(tmp_path))
    result = check.check("cuhk_pedes", tmp_path)
    problems = result["problems"]
    picture = lambda n: str(tmp_path / "imgs" / entries[n]["file_path"])  # noqa: E731
    assert not result["whole"]
    assert problems["missing pictures"] == [picture(0), picture(17)]
    assert [line.split(": ")[0] for line in problems["unreadable pictures"]] == list(map(picture, (1, 2, 3)))
    (line,) = problems["empty captions"]
    assert "record 4: field 'captions', item 1 is empty" in line
    (line,) = problems["records"]
    assert "record 8: field 'captions' is missing" in line
    assert problems["identities in two splits"] == ["identity 1 is in train and test"]
    assert [line.split()[0] for line in problems["counts"]] == ["train", "val", "test"]
    (line,) = result["notes"]["captions over 77 tokens"]
    assert "record 5: caption 0" in line
    (line,) = result["notes"]["pictures named twice"]
    assert "record 15: has the image of" in line and line.endswith("record 14")
    assert result["counts"]["train"] == {"identities": 4, "images": 8, "captions": 17}


def test_prints_ten_of_each_kind_and_all_in_json(tmp_path, capsys):
    folder = benchmark_folders.cuhk_pedes(tmp_path)
    for path in sorted((folder / "imgs" / "CUHK03").iterdir())[:13]:
        path.unlink()
    assert check.main(["cuhk_pedes", "--data_dir", str(folder)]) == 1
    words = capsys.readouterr().out
    assert (
        "missing pictures: 13\n" in words and "  ... and 3 more\n" in words and words.endswith("not whole\n")
    )
    assert words.count(".jpg\n") == 10
    assert check.main(["cuhk_pedes", "--data_dir", str(folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert len(told["problems"]["missing pictures"]) == 13 and told["whole"] is False


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[{", "not JSON"),
        ("{}", "must be a list of records"),
        ("[]", "has no records"),
        (None, "no such file"),
    ],
)
def test_rejects_what_is_not_an_annotation(tmp_path, capsys, content, told):
    folder = benchmark_folders.rstp_reid(tmp_path)
    (folder / "data_captions.json").unlink()
    if content is not None:
        (folder / "data_captions.json").write_text(content)
    assert check.main(["rstp_reid", "--data_dir", str(folder), "--json"]) == 1
    (line,) = json.loads(capsys.readouterr().out)["problems"]["annotation"]
    assert told in line and "data_captions.json" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cuhk", "--data_dir", "."], "data set 'cuhk' is unknown: choose from: mini_pedes, cuhk_pedes"),
        (["cuhk_pedes", "--data_dir", "/no/such"], "--data_dir /no/such: no such folder"),
        (["folder"], "--data_dir is missing"),
    ],
)
def test_wrong_usage(capsys, arguments, told):
    assert check.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert told in printed.err
    assert check.main([]) == 2


def test_accepts_exactly_77_tokens():
    """Start and end of text count too: 75 words of one token each just fit."""
    fits, long = "man " * 75, "man " * 76
    entries = [Entry("r 0", "train", "a", [fits, long], 1), Entry("r 1", "train", "b", ["x"], 1)]
    assert check.long_captions(entries) == ["r 0: caption 1 has more than 77 tokens, and will be truncated"]


def test_counts_two_spellings_of_an_id_as_one_identity(tmp_path):
    benchmark_folders.draw(tmp_path / "a.jpg", 0)
    benchmark_folders.draw(tmp_path / "b.jpg", 1)
    line = {"image": "a.jpg", "caption": "a man", "id": 7, "split": "train"}
    benchmark_folders.write_own(tmp_path, [line, line | {"image": "b.jpg", "id": "7"}], "jsonl")
    counts = check.check("folder", str(tmp_path))["counts"]["train"]
    assert counts == {"identities": 1, "images": 2, "captions": 2}


def test_own_data_with_a_box_outside_and_no_test(tmp_path):
    line = {"image": "a.jpg", "caption": "a man", "id": 1, "split": "train"}
    benchmark_folders.draw(tmp_path / "a.jpg", 0)
    benchmark_folders.write_own(tmp_path, [line, line | {"x": 500, "y": 0, "w": 9, "h": 9}], "csv")
    problems = check.check("folder", tmp_path)["problems"]
    assert list(problems) == ["unreadable pictures", "splits"]
    assert "a.jpg [500, 0, 9, 9]: the box" in problems["unreadable pictures"][0]
    assert problems["splits"] == [f"{tmp_path}/captions.csv: no record of split 'test'"]


def test_processes_and_threads_find_the_same(tmp_path, monkeypatch):
    damaged(benchmark_folders.cuhk_pedes(tmp_path))
    threads = check.check("cuhk_pedes", tmp_path)
    monkeypatch.setattr(check, "_MIN_FOR_PROCESSES", 0)
    assert check.check("cuhk_pedes", tmp_path) == threads


def test_runs_without_tensorflow_and_jax(tmp_path):
    """The check needs neither."""
    folder = benchmark_folders.own_folder(tmp_path)
    code = (
        "import sys; from tpr_jax.data import check; code = check.main(sys.argv[1:]);"
        "assert not {'tensorflow', 'jax', 'flax'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "folder", "--data_dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nwhole\n")


@pytest.mark.parametrize("flag", [[], ["--json"]])
@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
    ids=["ascii", "utf-8", "C"],
)
def test_prints_any_path(tmp_path, flag, environment):
    """Accented letters on an ASCII terminal, bytes that are not UTF-8, and a lone surrogate."""
    names = ["caf\u00e9.jpg", "gone\udcff.jpg", "half\ud83d.jpg"]
    lines = [{"image": name, "caption": "a man", "id": 1, "split": "train"} for name in names]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = [sys.executable, "-m", "tpr_jax.data.check", "folder", "--data_dir", str(tmp_path), *flag]
    done = subprocess.run(command, capture_output=True, timeout=600, env={**os.environ, **environment})
    assert done.returncode == 1 and done.stderr == b""
    assert b"gone\\udcff.jpg" in done.stdout and b"half\\ud83d.jpg" in done.stdout.replace(b"\\\\", b"\\")
    if flag:
        missing = json.loads(done.stdout)["problems"]["missing pictures"]
        assert missing == [f"{tmp_path}/{name}" for name in names[:2]]
    elif environment.get("PYTHONIOENCODING") == "ascii":
        assert b"caf\\xe9.jpg" in done.stdout


def unsplit(folder, people=10, kind="csv"):
    """Writes own data without splits: two photos of each person."""
    lines = []
    for number in range(2 * people):
        benchmark_folders.draw(folder / f"{number}.jpg", number)
        lines.append({"image": f"{number}.jpg", "caption": "a man", "id": f"p{number // 2}"})
    if kind == "csv":
        rows = [",".join(lines[0]), *(",".join(line.values()) for line in lines)]
        (folder / "captions.csv").write_text("\n".join(rows))
    else:
        benchmark_folders.write_own(folder, lines, kind)
    return folder / f"captions.{kind}"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_divides_people_and_leaves_the_captions_alone(tmp_path, capsys, kind):
    path = unsplit(tmp_path, kind=kind)
    before, command = path.read_bytes(), ["folder", "--data_dir", str(tmp_path)]
    assert check.main(command) == 1
    assert "--split 80/10/10" in capsys.readouterr().out
    assert check.main([*command, "--split", "80/10/10", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["counts"]["train"] == {"identities": 8, "images": 16, "captions": 16}
    told = f"note: {tmp_path}/splits.csv: written, with 8 in train, 1 in val, 1 in test\n"
    assert printed.err.startswith(told) and path.read_bytes() == before
    written = (tmp_path / "splits.csv").read_bytes()
    assert check.main(command) == 0  # also without the flag
    unsplit(tmp_path, 20, kind)
    assert check.main(command) == 1
    assert "is not in splits.csv" in capsys.readouterr().out
    assert check.main([*command, "--split", "80/10/10", "--seed", "5"]) == 0
    assert (tmp_path / "splits.csv").read_bytes().startswith(written)
    assert check.check("folder", str(tmp_path))["counts"]["test"]["identities"] == 2


def test_divides_people_anew_in_the_same_file_with_other_capitals(tmp_path, capsys):
    unsplit(tmp_path, 2)
    (tmp_path / "Splits.csv").write_text("id,split\np0,test\n")
    assert check.main(["folder", "--data_dir", str(tmp_path), "--split", "50/50"]) == 0
    assert (tmp_path / "Splits.csv").read_text() == "id,split\np0,test\np1,train\n"
    told = f"note: {tmp_path}/Splits.csv: written, with 1 in train, 1 in test\n"
    assert capsys.readouterr().err.startswith(told) and not (tmp_path / "splits.csv").exists()


def test_notes_an_encoding_that_was_assumed(tmp_path):
    benchmark_folders.ALL["folder"](tmp_path)
    path = tmp_path / "captions.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.replace('"caption": "', '"caption": "caf\u00e9 ', 1).encode("cp1252"))
    told = f"{path}: read as Windows-1252, because it is not UTF-8; if letters are wrong, save it in UTF-8"
    assert check.check("folder", str(tmp_path))["notes"] == {"assumed encoding": [told]}


def test_notes_that_the_splits_beside_are_not_read(tmp_path):
    own_data(tmp_path, ["0.png,1,train", "1.png,2,test"])
    (tmp_path / "splits.csv").write_text("id,split\n1,test\n2,train\n")
    told = f"{tmp_path}/splits.csv: is not read, since captions.csv has splits: keep one of them"
    assert check.check("folder", str(tmp_path))["notes"] == {"splits that are not read": [told]}


def test_divides_only_data_without_splits(tmp_path, capsys):
    folder = benchmark_folders.own_folder(tmp_path)
    for command, told in (
        (["folder", "--data_dir", str(folder), "--split", "80/20"], "has a split already"),
        (["cuhk_pedes", "--data_dir", str(folder), "--split", "80/20"], "only 'folder' can be divided"),
        (["folder", "--data_dir", str(folder), "--split", "most"], "--split most: give the shares"),
    ):
        assert check.main(command) == 2
        assert told in capsys.readouterr().err
    assert not (folder / "splits.csv").exists()


def own_data(folder, lines):
    """Writes captions.csv with these lines of `image,id,split`, and the images."""
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        Image.new("RGB", (8, 16)).save(folder / line.partition(",")[0])
    rows = "".join(f"{line},a man in red\n" for line in lines)
    (folder / "captions.csv").write_text(f"image,id,split,caption\n{rows}")


OWN = ["a.png,1,train", "b.png,2,train", "c.png,3,test"]


@pytest.mark.parametrize(
    ("lines", "other", "kind", "told", "whole"),
    [
        (
            [*OWN, "a.png,1,train", "a.png,1,train"],
            None,
            "repeated lines",
            [
                "captions.csv: line 5: repeats captions of the image of line 2, which count twice",
                "captions.csv: line 6: repeats captions of the image of line 2, which count twice",
            ],
            True,
        ),
        (
            OWN,
            "captions.jsonl",
            "annotation files that are not read",
            ["captions.csv: is not read, since captions.jsonl is: keep one of them"],
            True,
        ),
        (
            [*OWN, "d.png,1,test"],
            None,
            "identities in two splits",
            ["identity 1 is in train and test"],
            False,
        ),
    ],
)
def test_what_training_tells_is_told_here_too(tmp_path, capsys, lines, other, kind, told, whole):
    """In the text, in its last line, and as a field of --json."""
    own_data(tmp_path, lines)
    if other:
        rows = [dict(zip(("image", "id", "split"), line.split(","), strict=True)) for line in lines]
        content = "".join(json.dumps({**row, "caption": "a man"}) + "\n" for row in rows)
        (tmp_path / other).write_text(content)
    told = [line if whole is False else f"{tmp_path}/{line}" for line in told]
    section = "notes" if whole else "problems"
    code = check.main(["folder", "--data_dir", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["whole"], found[section]) == (0 if whole else 1, whole, {kind: told})
    check.main(["folder", "--data_dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert f"{kind}{' (note)' if whole else ''}: {len(told)}\n  " + "\n  ".join(told) + "\n" in text
    assert text.endswith("\nwhole, with notes\n" if whole else "\nnot whole\n")


def test_an_unread_annotation_is_told_where_the_other_is_broken(tmp_path):
    own_data(tmp_path, OWN)
    (tmp_path / "captions.jsonl").write_text("{")
    result = check.check("folder", str(tmp_path))
    assert not result["whole"] and list(result["notes"]) == ["annotation files that are not read"]


def test_a_spreadsheet_is_told(tmp_path):
    (tmp_path / "People.XLSX").write_bytes(b"PK")
    (told,) = check.check("folder", str(tmp_path))["problems"]["annotation"]
    assert told.endswith("(or captions.csv) and the images; save People.XLSX as captions.csv")


def test_names_the_line_of_a_long_caption(tmp_path):
    """The image has several lines, of which one that comes before is empty."""
    benchmark_folders.draw(tmp_path / "a.jpg", 0)
    line = {"image": "a.jpg", "id": 1, "split": "train"}
    captions = ["a man", " ", ["a boy", "red " * 100]]
    benchmark_folders.write_own(tmp_path, [line | {"caption": caption} for caption in captions], "jsonl")
    path, result = f"{tmp_path}/captions.jsonl", check.check("folder", str(tmp_path))
    assert result["notes"]["captions over 77 tokens"] == [
        f"{path}: line 3: caption 1 has more than 77 tokens, and will be truncated"
    ]
    assert result["problems"]["empty captions"] == [
        f"{path}: line 2: field 'caption', item 0 is empty: fix it or leave it out"
    ]


def test_a_line_break_in_a_name_stays_on_its_line(tmp_path, capsys):
    record = {"image": "a\nb.jpg", "caption": "a man", "id": 1, "split": "train"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(record))
    assert check.main(["folder", "--data_dir", str(tmp_path)]) == 1
    assert f"\n  {tmp_path}/a\\nb.jpg\n" in capsys.readouterr().out
