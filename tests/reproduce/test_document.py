"""The file reproduction.json: written, read back, and rejected in one line when it is wrong."""

import copy
import json

import pytest

from tests.reproduce.made import document, not_run, row
from tpr_jax.errors import UserError
from tpr_jax.reproduce import document as document_lib

MADE = document(row(), not_run(method="cskt"))


@pytest.fixture
def path(tmp_path):
    document_lib.write(tmp_path / "reproduction.json", MADE)
    return tmp_path / "reproduction.json"


def test_reads_what_was_written(path):
    assert document_lib.read(path) == MADE
    content = json.loads(path.read_text())
    assert (content["format"], content["version"]) == ("tpr_jax.reproduction", 2)
    assert list(content) == ["format", "version", "command", "quick", "data", "weights", "rows", "transfer"]
    assert content["rows"][0]["ours"]["final"]["R1"] == {
        "mean": 70.0,
        "deviation": 1.0,
        "values": [69.0, 70.0, 71.0],
    }
    assert content["data"]["cuhk_pedes"]["images"] == 40206


def test_reads_the_first_version_too(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    assert document_lib.read(path) == MADE


def test_a_document_before_the_first_measurement(tmp_path):
    made = document(not_run(), weights=None, transfer=[])
    document_lib.write(tmp_path / "a.json", made)
    assert document_lib.read(tmp_path / "a.json") == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "was not written by tpr_jax.reproduce"),
        ('{"format": "other"}', "was not written by tpr_jax.reproduce"),
        ('{"format": "tpr_jax.reproduction"}', "has version None, and this program reads 1 and 2"),
        (
            '{"format": "tpr_jax.reproduction", "version": 3}',
            "has version 3, and this program reads 1 and 2",
        ),
        ('{"format": "tpr_jax.reproduction", "version": 1}', "data is missing: the file is damaged"),
    ],
)
def test_rejects_files_of_another_kind(tmp_path, text, message):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError) as raised:
        document_lib.read(tmp_path / "file.json")
    line = str(raised.value)
    assert line.startswith(f"{tmp_path / 'file.json'}: {message}") and "\n" not in line


def test_rejects_a_file_that_is_not_text(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not JSON"):
        document_lib.read(tmp_path / "file.json")
    with pytest.raises(UserError, match="cannot be read"):
        document_lib.read(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("quick",), "no", "quick is 'no', which is not a true or false"),
        (("data",), [], "data is [], which is not a JSON object"),
        (
            ("data", "cuhk_pedes", "images"),
            True,
            "data.cuhk_pedes.images is True, which is not a whole number",
        ),
        (("weights", "sha256"), 3, "weights.sha256 is 3, which is not a string"),
        (("rows",), {}, "rows is {}, which is not a list"),
        (("rows", 0), None, "rows[0] is None, which is not a JSON object"),
        (("rows", 1, "verdict"), "great", "rows[1].verdict is 'great', not one of not yet run, within 1"),
        (("rows", 0, "protocol"), "best", "rows[0].protocol is 'best', not one of best_on_test"),
        (("rows", 0, "published", "R1"), "72", "rows[0].published.R1 is '72', which is not a finite number"),
        (("rows", 0, "ours", "final", "R1", "mean"), float("nan"), "rows[0].ours.final.R1.mean is nan"),
        (("rows", 0, "ours", "final", "R1", "values"), ["x"], "rows[0].ours.final.R1.values is 'x'"),
        (("rows", 0, "seeds"), 2.5, "rows[0].seeds is 2.5, which is not a whole number"),
        (("rows", 0, "hours"), "long" * 20, "rows[0].hours is 'longlong"),
        (("rows", 0, "commands"), [1], "rows[0].commands is 1"),
        (("rows", 0, "environments"), ["gpu"], "rows[0].environments is 'gpu'"),
        (("transfer", 0, "ours", "mAP"), 5, "transfer[0].ours.mAP is 5"),
    ],
)
def test_names_a_wrong_field(path, place, value, message):
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as raised:
        document_lib.read(path)
    line = str(raised.value)
    assert message in line and "\n" not in line and len(line) < 400
    assert line.endswith(": the file is damaged, ask for it again")


def leaves(content, place=()):
    """Yields the place of each key of the objects in a JSON value."""
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        if isinstance(content, dict):
            yield (*place, key)
        yield from leaves(value, (*place, key))


def test_names_a_missing_field(path):
    whole = json.loads(path.read_text())
    optional = {"weights", "revision", "name", "sha256", "hours", "deviation"}
    free = {"published", "difference", "data", "environments", "versions"}  # any keys, or none
    checked = 0
    for place in leaves(whole):
        is_free = len(place) > 1 and (place[-2] in free or "environments" in place or place[-2] == "ours")
        if place[0] in ("format", "version") or place[-1] in optional or (is_free and place[-1] != "R1"):
            continue
        if is_free and place[-2] != "final":
            continue
        content = copy.deepcopy(whole)
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        del inner[place[-1]]
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="is missing: the file is damaged"):
            document_lib.read(path)
        checked += 1
    assert checked > 40


def test_knows_whether_results_belong_to_a_folder(tmp_path):
    here, gone = tmp_path, tmp_path / "gone"
    assert document_lib.belongs_here(MADE, [gone, here]) and not document_lib.belongs_here(MADE, [gone])
    assert document_lib.belongs_here(document(not_run()), [gone])
