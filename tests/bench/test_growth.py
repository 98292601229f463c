"""The growth command: its series, resuming, errors, and a real measurement."""

import inspect
import json

import pytest

from tpr_jax.bench import __main__ as bench
from tpr_jax.bench import growth
from tpr_jax.bench import subjects as bench_subjects
from tpr_jax.bench.growth_table import SERIES
from tpr_jax.errors import UserError


def command(folder, only="ranking,search", *flags):
    growth.run(["bench_growth", "--only", only, "--turns", "2", "--workdir", str(folder), *flags])


@pytest.mark.parametrize("series", growth.SERIES)
def test_subjects_of_a_series_differ_only_in_size_and_can_be_built(series):
    key, subjects = SERIES[series].size_key, growth.subjects(series)
    sizes = [subject[key] for subject in subjects]
    assert sizes == [sizes[0] * 2**i for i in range(len(sizes))] and len(sizes) >= 4
    bound = {"identities"} if series == "ranking" else set()  # four images of each
    for subject in subjects:
        given = {name: value for name, value in subject.items() if name != "kind"}
        inspect.signature(bench_subjects.CASE_BUILDERS[subject["kind"]]).bind(**given)
        assert {k: v for k, v in subject.items() if k not in bound | {key}} == {
            k: v for k, v in subjects[0].items() if k not in bound | {key}
        }
        if series == "ranking":
            assert subject["gallery"] == 4 * subject["identities"]


def test_keeps_what_was_measured(measured, tmp_path, capsys):
    command(tmp_path)
    assert [subjects[0]["kind"] for subjects in measured] == ["ranking", "search"]
    assert "| exact search |" in capsys.readouterr().out
    command(tmp_path)
    command(tmp_path, "search")
    assert len(measured) == 2
    command(tmp_path, "search,devices")
    assert len(measured) == 3 and measured[2][-1]["devices"] == 8
    command(tmp_path, "experts", "--tables_only")
    assert len(measured) == 3 and "experts" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.pop(),
        lambda rows: rows[1].update(vectors=7),
        lambda rows: rows[2].update(error="no room"),
    ],
)
def test_measures_a_series_of_other_sizes_or_with_an_error_again(measured, tmp_path, damage):
    command(tmp_path)
    report = json.loads((tmp_path / "growth.json").read_text())
    damage(report["parts"]["search"])
    (tmp_path / "growth.json").write_text(json.dumps(report))
    command(tmp_path)
    assert [subjects[0]["kind"] for subjects in measured] == ["ranking", "search", "search"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--only", "batch,expert"], "--only expert is unknown: choose from batch, ranking"),
        (["--turns", "0"], "--turns 0: must be at least 1"),
        (["--torch"], "--torch is unknown: "),
    ],
)
def test_rejects_bad_flags(flags, line, measured, tmp_path):
    with pytest.raises(UserError, match=line):
        growth.run(["bench_growth", *flags, "--workdir", str(tmp_path)])
    assert not measured


def test_writes_table_and_plot_into_the_page(measured, tmp_path, monkeypatch, pytestconfig):
    page = (pytestconfig.rootpath / bench.PAGE).read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / bench.PAGE).write_text(page)
    command(tmp_path, "ranking", "--write")
    command(tmp_path, "ranking", "--write")
    written = (tmp_path / bench.PAGE).read_text()
    assert written.count("| ranking 2,048 texts |") == written.count("](growth.svg)") == 1
    assert written.partition("## Scaling")[0] == page.partition("## Scaling")[0] != page
    assert (tmp_path / "docs/growth.svg").read_text().startswith("<?xml")


def test_measures_a_real_series(tmp_path, monkeypatch):
    small = [{"kind": "ranking", "queries": 8, "gallery": n, "identities": n // 4} for n in (64, 128)]
    monkeypatch.setattr(growth, "subjects", lambda name: small)
    report = growth.measure(["ranking"], 1, tmp_path / "growth.json", lambda line: None)
    assert [row["gallery"] for row in report["parts"]["ranking"]] == [64, 128]
    assert all(0 < row["seconds"][0] < 60 for row in report["parts"]["ranking"])
    assert json.loads((tmp_path / "growth.json").read_text()) == report
