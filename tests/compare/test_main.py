"""The compare command: one real comparison, and the rest with a stand-in for the runs."""

import json
import os
import shlex
import signal
import statistics
import threading
import time

import pytest

from tests.compare_stand_in import compared_fixture, stand_in_fixture, starts, table, zero_fixture  # noqa: F401
from tpr_jax.cli.exit import explain_and_exit, explain_stopped
from tpr_jax.compare import __main__ as compare
from tpr_jax.compare import runs as compare_runs
from tpr_jax.errors import UserError


def send_when(path, *numbers):
    """Sends signals to this process, the first one as soon as the file exists."""

    def work():
        deadline = time.monotonic() + 300
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.slow
def test_compares_real_runs(compared, quick_processes, tmp_path, monkeypatch):
    flags = ("--config.total_steps=6", "--config.eval_every=0")
    code, stdout, stderr = compared(*flags)
    assert (code, stderr) == (0, ""), (tmp_path / "all/tiny/seed_0/log.txt").read_text()
    results = [json.loads((tmp_path / f"all/tiny/seed_{k}/results.json").read_text()) for k in (0, 1)]
    assert [result["steps"] for result in results] == [6, 6] and results[0]["final"] != results[1]["final"]
    tiny, zero = table(tmp_path)["tiny"], table(tmp_path)["zero"]
    for key in ("R1", "R5", "R10", "mAP", "mINP"):
        values = [result["final"]["test"]["t2i"][key] for result in results]
        assert float(tiny[f"{key}_mean"]) == pytest.approx(sum(values) / 2)
        assert float(tiny[f"{key}_sd"]) == pytest.approx(statistics.stdev(values))
        # Evaluating CLIP alone gives the zero-shot scores of each run.
        assert float(zero[f"{key}_mean"]) == pytest.approx(results[0]["zero_shot"]["test"]["t2i"][key])
        assert float(zero[f"{key}_sd"]) == 0
    params = results[0]["trainable_params"]
    assert (tiny["trainable_params"], zero["trainable_params"]) == (str(params), "0")
    assert int(zero["total_params"]) == int(tiny["total_params"]) - params
    assert int(tiny["memory_bytes"]) == max(result["peak_memory_bytes"] for result in results)
    assert int(tiny["saved_bytes"]) >= 4 * params and zero["saved_bytes"] == "0"
    assert 0 < float(tiny["seconds_per_step"]) < 60 and zero["seconds_per_step"] == ""
    assert "[1 of 4] tiny, seed 0: R@1 " in stdout and "[4 of 4] zero, seed 1: R@1 " in stdout
    assert f"{float(tiny['R1_mean']):.2f} ± {float(tiny['R1_sd']):.2f}" in stdout
    written = (tmp_path / "all" / "compare.md").read_text()
    assert written.startswith("### CUHK-PEDES: text to image\n") and "| tiny " in written
    assert (tmp_path / "all" / "compare.png").read_bytes().startswith(b"\x89PNG")
    # Rerun: everything is done, and nothing is started.
    monkeypatch.setattr(compare_runs, "PROGRAM", ("false",))
    code, again, _ = compared(*flags)
    assert code == 0 and again.count("already done") == 4
    assert (tmp_path / "all" / "compare.md").read_text() == written
    # The other direction needs no further run.
    code, again, _ = compared(*flags, "--direction", "i2t")
    assert code == 0 and "CUHK-PEDES: image to text" in again and "text to image" not in again
    for key in ("R1", "R5", "R10", "mAP", "mINP"):
        values = [result["final"]["test"]["i2t"][key] for result in results]
        assert float(table(tmp_path)["tiny"][f"{key}_mean"]) == pytest.approx(sum(values) / 2)


def test_table_of_the_stand_in(compared, stand_in, tmp_path):
    code, stdout, _ = compared()
    assert code == 0
    row = table(tmp_path)["tiny"]
    # R@1 10 and 11: mean 10.5, deviation 1/sqrt(2). 16 examples a second in batches of 8.
    assert (row["R1_mean"], row["R1_sd"]) == ("10.5", str(0.5**0.5))
    assert (row["seconds_per_step"], row["memory_bytes"], row["saved_bytes"]) == ("0.5", "7000", "400")
    assert (row["steps_min"], row["steps_max"], row["trainable_params"]) == ("120", "120", "100")
    assert table(tmp_path)["zero"]["steps_max"] == "0"
    assert "10.50 ± 0.71" in stdout and "MiniPEDES" not in stdout and "image to text" not in stdout


def test_each_direction_has_its_own_table(compared, stand_in, tmp_path):
    code, stdout, _ = compared("--direction", "both")
    assert code == 0 and "10.50 ± 0.71" in stdout and "21.00 ± 1.41" in stdout
    written = (tmp_path / "all" / "compare.md").read_text()
    titles = [line for line in written.splitlines() if line.startswith("###")]
    assert titles == ["### CUHK-PEDES: text to image", "### CUHK-PEDES: image to text"]
    code, stdout, _ = compared("--direction", "i2t")
    assert "tiny, seed 1: R@1 22.00, already done" in stdout and "10.50" not in stdout


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("fail", "FAILED (exit code 2): error: 5.jpg cannot be read: fix it\n"),
        ("bug", "FAILED (exit code 1): ValueError: a bug\n"),
        ("kill", "FAILED (exit code -9): ended by signal 9 (out of memory?)"),
        ("nothing", "FAILED (exit code 1): ended without readable results in "),
    ],
)
def test_reports_a_failed_run_and_runs_the_others(compared, stand_in, tmp_path, behavior, message):
    stand_in({"tiny/seed_0": behavior})
    code, stdout, stderr = compared()
    assert code == 1 and message in stdout and "1 of 4 runs failed" in stderr, stdout + stderr
    assert str(tmp_path / "all" / "tiny" / "seed_0" / "log.txt") in stdout
    row = table(tmp_path)["tiny"]
    assert (row["done"], row["failed"], row["R1_mean"], row["R1_sd"]) == ("1", "1", "11.0", "")
    assert table(tmp_path)["zero"]["done"] == "2" and "1 of 2, 1 failed" in stdout
    # Once fixed, it alone runs again.
    stand_in()
    code, stdout, stderr = compared()
    assert (code, stderr) == (0, "") and stdout.count("already done") == 3
    assert [starts(tmp_path, f"tiny/seed_{k}") for k in (0, 1)] == [2, 1]
    assert table(tmp_path)["tiny"]["R1_mean"] == "10.5"


def test_reports_a_run_whose_results_are_gone(compared, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_runs, "execute", lambda run, asked_to_stop: (0, "done"))  # writes nothing
    code, stdout, stderr = compared()
    assert code == 1 and "4 of 4 runs failed" in stderr and "Traceback" not in stderr
    assert f"FAILED: the results in {tmp_path / 'all/tiny/seed_0'} are gone" in stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_resumes_after_an_interrupt(compared, stand_in, tmp_path, number):
    stand_in({"tiny/seed_1": "wait1"})
    thread = send_when(tmp_path / "all" / "tiny" / "seed_1" / "ready", number)
    code, stdout, stderr = compared("--config.temperature=0.5")
    thread.join()
    expected = 130 if number == signal.SIGINT else 2
    assert code == expected and "[3 of 4] tiny, seed 1: error: stopped after 1\n" in stdout
    line = stderr.removesuffix("\n")
    assert line.startswith("error: stopped at run 3 of 4; resume with: python -m tpr_jax.compare ")
    assert not (tmp_path / "all" / "tiny" / "seed_1" / "ready").exists()  # the run finished by itself
    written = (tmp_path / "all" / "compare.md").read_text()
    assert "1 of 2" in written and "failed" not in written
    assert [table(tmp_path)[name]["done"] for name in ("tiny", "zero")] == ["1", "1"]
    # The printed command resumes.
    stand_in()
    argv = shlex.split(line.partition("resume with: ")[2])[2:]
    compare.run(argv)
    assert [starts(tmp_path, f"tiny/seed_{k}") for k in (0, 1)] == [1, 2]
    assert [table(tmp_path)[name]["done"] for name in ("tiny", "zero")] == ["2", "2"]


def test_a_second_ctrl_c_ends_the_comparison_at_once(compared, stand_in, tmp_path):
    stand_in({"tiny/seed_0": "wait2"})
    ready = tmp_path / "all" / "tiny" / "seed_0" / "ready"
    thread = send_when(ready, signal.SIGINT, signal.SIGINT)
    code, _, stderr = compared()
    thread.join()
    assert code == 130 and stderr.startswith("error: interrupted")
    assert not ready.exists()  # the run has ended too
    assert "stopped after 2" in (ready.parent / "log.txt").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["CONFIG", "configs/dm_adaptr.py"], "no such file; did you mean 'configs/dm_adapter.py'?"),
        (["CONFIG", "--config.sed=1"], "CONFIG: config.sed is unknown: did you mean 'seed'?"),
        (
            ["CONFIG", "configs/zero_shot.py", "--config.method.top_k=1"],
            "configs/zero_shot.py: config.method.top_k is unknown",
        ),
        (["CONFIG", "--config.dtype=float23"], "CONFIG: config.dtype='float23' is unknown"),
        (["CONFIG", "configs/dm_adapter.py:cuhk"], "data set 'cuhk' is unknown"),
        (["CONFIG", "--config.seed=4"], "--config.seed=4: the seeds are 0 to N - 1"),
        (["CONFIG", "--config.batch_size", "8"], "settings are written --config.KEY=VALUE"),
        (["CONFIG", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["CONFIG", "--direction", "t2t"], "--direction t2t is unknown: choose from t2i, i2t, both"),
        (["CONFIG", "--seeds", "many"], "invalid int value: 'many'"),
        (["CONFIG", "--sed", "3"], "--sed is unknown: did you mean '--seeds'?"),
        (["CONFIG", "CONFIG"], "is given twice: leave one out"),
        ([], "no config is named"),
    ],
)
def test_rejects_bad_arguments_before_anything_runs(tiny, tmp_path, flags, words, capsys):
    flags = [flag.replace("CONFIG", tiny["config"]) for flag in flags]
    with pytest.raises(SystemExit) as ended:
        explain_and_exit(
            compare.run, ["compare", "--workdir", str(tmp_path / "all"), *flags], explain_stopped
        )
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert words.replace("CONFIG", tiny["config"]) in line
    assert not (tmp_path / "all").exists()


def test_rejects_a_missing_workdir_or_a_file(tiny, tmp_path, stand_in):
    with pytest.raises(UserError, match="--workdir is missing"):
        compare.run(["compare", tiny["config"]])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"--workdir .*file cannot be created \(.*\): choose another"):
        compare.run(["compare", tiny["config"], "--workdir", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"


def test_help(capsys):
    for argv, code in ((["compare", "--help"], 0), (["compare"], 2)):
        with pytest.raises(SystemExit) as ended:
            explain_and_exit(compare.run, argv, explain_stopped)
        assert ended.value.code == code
        assert "python -m tpr_jax.compare CONFIG... --workdir DIR [--seeds N]" in capsys.readouterr().out
