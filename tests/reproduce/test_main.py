"""The command that reproduces the published results: with stand-ins for its processes, and one whole run."""

import json
import os
import shlex
import signal
import statistics
import threading
import time

import pytest

from tests import benchmark_folders, without_tensorflow
from tests.conftest import _write_clip
from tests.reproduce.stand_in import (
    NAMES,
    benchmarks_fixture,  # noqa: F401
    document,
    reproduced_fixture,  # noqa: F401
    rows,
    stand_in_fixture,  # noqa: F401
    starts,
)
from tpr_jax.cli.exit import early_ends
from tpr_jax.compare import runs as compare_runs
from tpr_jax.reproduce import __main__ as reproduce


def data(benchmarks, *names) -> list[str]:
    """Returns the words of --data for some benchmarks, by default for all."""
    return ["--data", *(f"{name}={benchmarks[name]}" for name in names or NAMES)]


def test_reproduces_and_writes_both_files(benchmarks, stand_in, reproduced, tmp_path):
    """R@1 of DM-Adapter is 70, 71 and 72 on CUHK-PEDES, where 72.17 is published: 1.17 points less."""
    work = tmp_path / "work"
    done = reproduced(*data(benchmarks), "--workdir", work)
    assert (done.code, done.err) == (0, ""), done.err
    assert done.out.startswith(f"cuhk_pedes in {benchmarks['cuhk_pedes']}: 18 images, 0.0 MB; whole\n")
    # Hours of a run: (3,600 x 0.5 s + 100 x 0.1 s + 20 s) / 3,600; three seeds of it, and one of zero-shot.
    assert "dm_adapter        CUHK-PEDES     3     0.5    1.5\n" in done.out
    assert "zero_shot         CUHK-PEDES     1           0.51\n" in done.out
    # In all 12 recipes of three seeds and 3 of one: 39 runs of 1,830 s, and 36 models on 30 images of 0.1 s.
    assert "in all 20 GPU hours: 20 hours on NVIDIA H200\n" in done.out
    assert "[1 of 39] zero_shot:cuhk_pedes, seed 0\n    R@1 12.00\n" in done.out
    assert "every model on every data set\n    36 models on 3 data sets\n" in done.out
    found = rows(work)
    methods = ("zero_shot", "dm_adapter", "up_person", "cskt", "tpr_peft")
    assert list(found) == [(method, dataset) for dataset in NAMES for method in methods]
    row = found["dm_adapter", "cuhk_pedes"]
    assert (row["seeds"], row["done"], row["failed"], row["hours"]) == (3, 3, 0, 1.5)
    assert row["published"] == {"R1": 72.17, "R5": 88.74, "R10": 92.85, "mAP": 64.33}
    assert row["ours"]["best_on_test"]["R1"] == {"mean": 71.0, "deviation": 1.0, "values": [70.0, 71.0, 72.0]}
    assert row["ours"]["best_on_val"]["R1"]["mean"] == 70.0 and row["ours"]["final"]["R1"]["mean"] == 69.0
    assert row["difference"]["R1"] == pytest.approx(-1.17) and row["verdict"] == "beyond 1 point"
    assert (row["protocol"], row["reason"]) == ("best_on_test", "")
    assert row["environments"][0]["device"] == "NVIDIA H200" and row["weights_sha256"] == ["a" * 64]
    assert "best_on_val" not in found["dm_adapter", "icfg_pedes"]["ours"]  # which has no val split
    zero = found["zero_shot", "cuhk_pedes"]  # 12.00, and 12.65 is published
    assert (zero["protocol"], zero["verdict"], zero["seeds"]) == ("untrained", "within 1 point", 1)
    assert zero["weights_sha256"] == ["a" * 64]
    own = found["tpr_peft", "cuhk_pedes"]
    assert (own["verdict"], own["published"], own["difference"], own["source"]) == (
        "none published",
        {},
        {},
        "",
    )
    assert own["ours"]["best_on_test"]["R1"]["mean"] == 71.0
    assert shlex.split(row["commands"][2])[-1] == "train" and "--config.seed=2" in row["commands"][2]
    whole = document(work)
    assert (whole["format"], whole["version"], whole["quick"]) == ("tpr_jax.reproduction", 2, False)
    assert whole["command"].startswith("python -m tpr_jax.reproduce --data cuhk_pedes=")
    assert whole["data"]["icfg_pedes"]["images"] == 21 and whole["weights"]["name"] == "clip"
    across = {(t["method"], t["trained_on"], t["tested_on"]): t["ours"]["R1"] for t in whole["transfer"]}
    assert len(across) == 4 * 3 * 2
    # The models are in the order of the recipes, 40 + their number: the first three are DM-Adapter's.
    assert across["dm_adapter", "cuhk_pedes", "rstp_reid"]["values"] == [40.0, 41.0, 42.0]
    page = (work / "reproduction.md").read_text()
    assert "| DM-Adapter     |     72.17 | 71.00 ± 1.00 | best epoch on test |      -1.17 | beyond 1" in page
    assert "DM-Adapter 72.17 71.00 ± 1.00 best epoch on test -1.17 beyond 1" in " ".join(done.out.split())


def test_rerun_skips_what_is_done(benchmarks, stand_in, reproduced, tmp_path, monkeypatch):
    work = tmp_path / "work"
    words = [*data(benchmarks, "cuhk_pedes"), "--workdir", work, "--methods", "dm_adapter", "--seeds", "2"]
    (work / "mine").mkdir(parents=True)
    (work / "notes.txt").write_text("mine")
    assert reproduced(*words).code == 0
    page = (work / "reproduction.md").read_text()
    monkeypatch.setattr(compare_runs, "PROGRAM", ("false",))
    again = reproduced(*words)
    assert (again.code, again.err) == (0, "")
    assert again.out.count("already done") == 2 and "measuring" not in again.out
    assert "the same files were checked before" in again.out
    assert (work / "reproduction.md").read_text() == page
    assert document(work)["weights"]["name"] == "clip"
    assert (work / "notes.txt").read_text() == "mine" and (work / "mine").is_dir()
    assert starts(work / "estimate" / "dm_adapter-cuhk_pedes") == 1
    assert list(rows(work)) == [("dm_adapter", "cuhk_pedes")] and document(work)["transfer"] == []


def test_more_seeds_keep_the_first_ones(benchmarks, stand_in, reproduced, tmp_path):
    work = tmp_path / "work"
    words = [*data(benchmarks, "cuhk_pedes"), "--workdir", work, "--methods", "dm_adapter", "--seeds"]
    assert reproduced(*words, "1").code == 0
    row = rows(work)["dm_adapter", "cuhk_pedes"]
    assert row["ours"]["best_on_test"]["R1"] == {"mean": 70.0, "deviation": None, "values": [70.0]}
    assert reproduced(*words, "2").code == 0
    assert [starts(work / "dm_adapter-cuhk_pedes" / f"seed_{k}") for k in (0, 1)] == [1, 1]
    assert rows(work)["dm_adapter", "cuhk_pedes"]["ours"]["best_on_test"]["R1"]["mean"] == 70.5


def test_reports_a_failed_run_and_repeats_it(benchmarks, stand_in, reproduced, tmp_path):
    work = tmp_path / "work"
    words = [*data(benchmarks, "cuhk_pedes"), "--workdir", work, "--methods", "dm_adapter", "--seeds", "2"]
    stand_in({"run dm_adapter-cuhk_pedes/seed_1": "fail"})
    done = reproduced(*words)
    assert done.code == 1 and "1 of 2 runs failed; rerun the same command" in done.err
    assert "    FAILED (exit code 2): error: 5.jpg cannot be read: fix it\n" in done.out
    row = rows(work)["dm_adapter", "cuhk_pedes"]
    assert (row["done"], row["failed"], row["ours"]["best_on_test"]["R1"]["values"]) == (1, 1, [70.0])
    assert "1 of 2, 1 failed" in (work / "reproduction.md").read_text()
    stand_in()
    assert reproduced(*words).code == 0
    assert [starts(work / "dm_adapter-cuhk_pedes" / f"seed_{k}") for k in (0, 1)] == [1, 2]
    assert rows(work)["dm_adapter", "cuhk_pedes"]["done"] == 2


def test_reports_a_failed_test_across_benchmarks(benchmarks, stand_in, reproduced, tmp_path):
    stand_in({"cross": "the disk is full"})
    words = [*data(benchmarks, "cuhk_pedes", "rstp_reid"), "--workdir", tmp_path / "work"]
    words += ["--methods", "dm_adapter", "--seeds", "1"]
    done = reproduced(*words)
    assert done.code == 1 and "FAILED (exit code 1): error: the disk is full" in done.out
    assert done.err == "the test across data sets failed; rerun the same command to repeat it\n"
    assert document(tmp_path / "work")["transfer"] == []
    stand_in()
    assert reproduced(*words).code == 0 and len(document(tmp_path / "work")["transfer"]) == 2


def send_when(path, number) -> threading.Thread:
    """Sends a signal to this process as soon as a file exists."""

    def work():
        deadline = time.monotonic() + 300
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("process", "number", "where"),
    [
        ("run", signal.SIGTERM, "run 2 of 2"),
        ("run", signal.SIGINT, "run 2 of 2"),
        ("measure", signal.SIGTERM, "the estimate of the time"),
    ],
)
def test_stops_and_resumes(benchmarks, stand_in, reproduced, tmp_path, process, number, where):
    work = tmp_path / "work"
    words = [*data(benchmarks, "cuhk_pedes"), "--workdir", work, "--methods", "dm_adapter", "--seeds", "2"]
    names = {"run": "dm_adapter-cuhk_pedes/seed_1", "measure": "dm_adapter-cuhk_pedes"}
    stand_in({f"{process} {names[process]}": "wait"})
    folder = work / names["run"] if process == "run" else work / "estimate" / names["measure"]
    thread = send_when(folder / "ready", number)
    done = reproduced(*words)
    thread.join()
    assert done.code == (130 if number == signal.SIGINT else 2)
    line = done.err.strip()
    assert line.startswith(f"error: stopped at {where}; resume with: python -m tpr_jax.reproduce --data ")
    assert not (folder / "ready").exists()  # the process ended by itself
    if process == "run":
        assert rows(work)["dm_adapter", "cuhk_pedes"]["done"] == 1
    stand_in()
    again = reproduced(*shlex.split(line.partition("resume with: ")[2])[3:])
    assert again.code == 0 and rows(work)["dm_adapter", "cuhk_pedes"]["done"] == 2
    assert [starts(work / "dm_adapter-cuhk_pedes" / f"seed_{k}") for k in (0, 1)] == [
        1,
        1 + (process == "run"),
    ]


def test_estimate_trains_nothing(benchmarks, stand_in, reproduced, tmp_path):
    work = tmp_path / "work"
    words = [*data(benchmarks, "cuhk_pedes"), "--workdir", work, "--methods", "dm_adapter", "cskt"]
    done = reproduced(*words, "--estimate")
    assert done.code == 0 and "in all 3.0 GPU hours: 3.0 hours on NVIDIA H200\n" in done.out
    assert not (work / "reproduction.json").exists() and not list(work.glob("*/seed_*"))
    assert reproduced(*words, "--seeds", "1").code == 0  # the measurement is used again
    assert starts(work / "estimate" / "dm_adapter-cuhk_pedes") == 1
    left = reproduced(*words, "--estimate")  # two seeds of each are left
    assert "dm_adapter  CUHK-PEDES     2     0.5    1.0\n" in left.out


def test_quick_is_one_seed_and_one_epoch_and_not_comparable(benchmarks, stand_in, reproduced, tmp_path):
    work = tmp_path / "work"
    words = [*data(benchmarks, "cuhk_pedes"), "--workdir", work, "--methods", "dm_adapter"]
    assert reproduced(*words, "--quick").code == 0
    row = rows(work)["dm_adapter", "cuhk_pedes"]
    assert (row["seeds"], row["verdict"], row["reason"]) == (1, "not comparable", "a short run (--quick)")
    assert "--config.num_epochs=1" in row["commands"][0] and document(work)["quick"] is True
    page = (work / "reproduction.md").read_text()
    assert "Not comparable with the papers: DM-Adapter: a short run (--quick).\n" in page


def test_other_settings_and_backbones_are_not_comparable(benchmarks, stand_in, reproduced, tmp_path):
    words = [*data(benchmarks, "cuhk_pedes"), "--methods", "dm_adapter", "--seeds", "1"]
    for folder, flags, params, verdict, reason in (
        ("same", ["--config.log_every=5", "--config.remat=dots"], 149_617_664, "within 1 point", ""),
        (
            *("other", ["--config.batch_size=64"], 149_617_664, "not comparable"),
            "other settings than the recipe's (batch_size)",
        ),
        ("small", [], 3_925_632, "not comparable", "another backbone than CLIP ViT-B/16"),
    ):
        stand_in(params=params, dm_adapter=72.0)
        assert reproduced(*words, "--workdir", tmp_path / folder, *flags).code == 0
        row = rows(tmp_path / folder)["dm_adapter", "cuhk_pedes"]
        assert (row["verdict"], row["reason"]) == (verdict, reason)
        assert all(flag in row["commands"][0] for flag in flags)


def test_a_wrong_copy_is_one_line_before_anything_else(benchmarks, stand_in, reproduced, tmp_path):
    (benchmarks["rstp_reid"] / "imgs" / "0000_c0_0000.jpg").unlink()
    done = reproduced(*data(benchmarks), "--workdir", tmp_path / "work")
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"error: --data rstp_reid={benchmarks['rstp_reid']}: missing pictures: " in done.err
    assert "python -m tpr_jax.data.check rstp_reid --data_dir" in done.err
    assert "measuring" not in done.out and not list((tmp_path / "work").glob("*_*"))


def test_a_subset_needs_a_flag_and_is_not_comparable(benchmarks, stand_in, reproduced, tmp_path):
    path = benchmarks["cuhk_pedes"] / "reid_raw.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    words = [*data(benchmarks, "cuhk_pedes"), "--workdir", tmp_path / "work", "--methods", "dm_adapter"]
    done = reproduced(*words)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "test has 3 identities, 5 images, 11 captions; officially 3 identities, 6 images" in done.err
    for _ in range(2):  # also when the copy was checked before
        assert reproduced(*words, "--allow_subset").code == 0
        row = rows(tmp_path / "work")["dm_adapter", "cuhk_pedes"]
        assert (row["verdict"], row["reason"]) == ("not comparable", "a subset of the benchmark")
        assert reproduced(*words).code == 2


def test_does_not_overwrite_foreign_files(benchmarks, stand_in, reproduced, tmp_path):
    words = [*data(benchmarks, "cuhk_pedes"), "--methods", "dm_adapter", "--seeds", "1"]
    mine, other = tmp_path / "mine", tmp_path / "other"
    assert reproduced(*words, "--workdir", mine).code == 0
    text = (mine / "reproduction.json").read_text()
    other.mkdir()
    (other / "reproduction.json").write_text(text)
    done = reproduced(*words, "--workdir", other)
    assert done.code == 2 and "has results of runs that are not in this folder: move it" in done.err
    assert (other / "reproduction.json").read_text() == text
    for name, content in (("reproduction.json", "{}"), ("reproduction.md", "# Mine\n")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        done = reproduced(*words, "--workdir", folder)
        assert done.code == 2 and done.err.count("\n") == 1
        assert (folder / name).read_text() == content


def test_check_compares_with_the_workdir_or_another_file(benchmarks, stand_in, reproduced, tmp_path):
    words = [*data(benchmarks, "cuhk_pedes"), "--methods", "dm_adapter", "--seeds", "2"]
    for folder, score in (("mine", 70.0), ("near", 70.9), ("far", 75.0)):
        stand_in(dm_adapter=score)
        assert reproduced(*words, "--workdir", tmp_path / folder).code == 0
    mine, near, far = (tmp_path / name / "reproduction.json" for name in ("mine", "near", "far"))
    done = reproduced("--check", near, "--workdir", tmp_path / "mine")
    assert done.code == 0 and done.out.endswith("\nnothing differs\n")
    assert f"ours: {mine}\ntheirs: {near}\n" in done.out
    # The standard deviation of 70 and 71 is 0.71: 0.9 points are less than twice that.
    assert (
        "DM-Adapter  CUHK-PEDES  70.50 ± 0.71  71.40 ± 0.71       +0.90  within the spread  same" in done.out
    )
    done = reproduced("--check", far, "--workdir", tmp_path / "mine", "--with", near)
    assert done.code == 1 and done.out.endswith("\n1 row of 1 differ\n") and f"ours: {near}\n" in done.out
    assert "71.40 ± 0.71  75.50 ± 0.71       +4.10  beyond 1 point" in done.out
    near.write_text(near.read_text()[:-20])
    for file, message in ((near, "is not JSON"), (tmp_path / "none.json", "cannot be read")):
        done = reproduced("--check", file, "--workdir", tmp_path / "mine")
        assert done.code == 2 and done.err.count("\n") == 1 and f"error: {file}: {message}" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir", "W"], "--data is missing"),
        (["--data", "cuhk_pedes=D"], "--workdir is missing"),
        (["--data", "cuhk=D", "--workdir", "W"], "are recorded for 'cuhk': did you mean 'cuhk_pedes'?"),
        (
            ["--data", "mini_pedes", "--workdir", "W"],
            "no published results are recorded for 'mini_pedes'",
        ),
        (["--data", "cuhk_pedes", "--workdir", "W"], "give the folder of your copy as --data cuhk_pedes=DIR"),
        (["--data", "cuhk_pedes=D", "cuhk_pedes=E", "--workdir", "W"], "cuhk_pedes is given twice"),
        (["--data", "cuhk_pedes=nowhere", "--workdir", "W"], "nowhere: no such folder"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--methods", "cskd"], "did you mean 'cskt'?"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--methods", "cskt", "cskt"], "cskt: is given twice"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--config.seed=1"], "(--seeds N): leave it out"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--config.data_dir=E"], "(--data DATASET=DIR)"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--config.sed=1"], "config.sed is unknown"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--config.pad", "1"], "written --config.KEY=VALUE"),
        (["--data", "cuhk_pedes=D", "--workdir", "W", "--with", "F"], "--with is the other file of --check"),
        (["--check", "F"], "--check needs your own results"),
        (["--check", "F", "--data", "cuhk_pedes=D", "--workdir", "W"], "leave out --data"),
        (["--check", "F", "--workdir", "W"], "W/reproduction.json: cannot be read"),
        (["--quik"], "--quik is unknown: did you mean '--quick'?"),
    ],
)
def test_rejects_bad_arguments(reproduced, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = reproduced(*words)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert done.err.startswith("error: ") and list(tmp_path.iterdir()) == []


def test_help(reproduced):
    for words, code in ((["--help"], 0), ([], 2)):
        done = reproduced(*words)
        assert done.code == code
        assert "python -m tpr_jax.reproduce --data DATASET=DIR... --workdir DIR" in done.out
        for flag in ("--methods", "--seeds", "--quick", "--estimate", "--allow_subset", "--check", "--with"):
            assert flag in done.out


def test_early_signals_show_how_to_resume():
    ends = early_ends(reproduce.MODULE, ["reproduce", "--data", "x"])
    line = "error: stopped at its beginning; resume with: python -m tpr_jax.reproduce --data x"
    assert ends == {signal.SIGTERM: (2, line), signal.SIGINT: (130, line)}


@pytest.mark.slow
def test_a_whole_reproduction(benchmarks, reproduced, quick_processes, tmp_path, monkeypatch):
    """Measures, trains and tests for real, on three small copies and with a tiny CLIP."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PYTHONPATH", without_tensorflow.environment(tmp_path / "site")["PYTHONPATH"])
    texts = [text for number in range(40) for text in benchmark_folders.captions(number)]
    _write_clip(tmp_path / "clip", texts)
    work = tmp_path / "work"
    words = [*data(benchmarks), "--workdir", work, "--seeds", "1", "--methods", "zero_shot", "dm_adapter"]
    words += [f"--config.backbone={tmp_path / 'clip'}", "--config.eval_batch_size=8"]
    words += ["--config.image_size=(32,16)", "--config.batch_size=8", "--config.num_epochs=2"]
    words += ["--config.dtype=float32"]
    done = reproduced(*words)
    assert (done.code, done.err) == (0, ""), done.err + done.out
    assert "hours on this CPU (" in done.out and "[6 of 6] dm_adapter:rstp_reid, seed 0\n    R@1 " in done.out
    for (method, dataset), row in rows(work).items():
        folders = [work / f"{method}-{dataset}" / f"seed_{k}" for k in range(row["seeds"])]
        assert (row["done"], row["verdict"]) == (len(folders), "not comparable")
        if method == "zero_shot":
            scores = [json.loads((f / "eval.json").read_text())["test"]["t2i"]["R1"] for f in folders]
        else:
            results = [json.loads((f / "results.json").read_text()) for f in folders]
            scores = [result["best_on_test"]["test"]["t2i"]["R1"] for result in results]
            last = [result["final"]["test"]["t2i"]["R1"] for result in results]
            assert row["ours"]["final"]["R1"]["mean"] == pytest.approx(statistics.fmean(last))
            assert row["hours"] == pytest.approx(sum(result["seconds"] for result in results) / 3600)
            assert ("best_on_val" in row["ours"]) == (dataset != "icfg_pedes")
        assert row["ours"][row["protocol"]]["R1"]["values"] == scores
        assert row["weights_sha256"] == [document(work)["weights"]["sha256"]]
    assert len(document(work)["transfer"]) == 3 * 2
    again = reproduced(*words)
    assert again.code == 0 and again.out.count("already done") == 6 and "measuring" not in again.out
    assert reproduced("--check", work / "reproduction.json", "--workdir", work).code == 0
    longer = reproduced(*words, "--config.num_epochs=3")  # needs a folder of its own
    assert longer.code == 2 and "config.num_epochs" in longer.err and longer.err.count("\n") == 1
