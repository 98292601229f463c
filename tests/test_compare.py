"""Comparing: one comparison for real, and what happens around the runs with a stand-in for them."""

import csv
import fcntl
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tpr_jax import compare, compare_runs, main
from tpr_jax.errors import UserError

ZERO_SHOT = """
import runpy

def get_config():
    config = runpy.run_path({tiny!r})["get_config"]()
    config.method = {{"name": "zero_shot"}}
    config.losses.balance = 0.0
    return config
"""

# Does at once what a run does, R@1 being 10 + its seed; or what FAKE says for it.
STAND_IN = """
import json, os, pathlib, signal, sys, time

flags = sys.argv[1:]
folder = pathlib.Path(flags[flags.index("--workdir") + 1])
what = json.loads(os.environ["FAKE"]).get(f"{folder.parent.name}/{folder.name}", "")
if what == "fail":
    print("error: 5.jpg cannot be read: mend it", "and a library's last words", sep="\\n", file=sys.stderr)
    sys.exit(2)
if what == "bug":
    raise ValueError("a bug")
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "nothing":
    sys.exit(0)
if what.startswith("wait"):
    came = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    (folder / "ready").touch()
    while len(came) < int(what[4:]):
        time.sleep(0.01)
    (folder / "ready").unlink()
    print(f"error: stopped after {len(came)}")
    sys.exit(2)
r1 = 10.0 + int(folder.name.removeprefix("seed_"))
scores = {"t2i": {"R1": r1, "R5": 20.0, "R10": 30.0, "mAP": 15.0, "mINP": 5.0}}
sizes = {"trainable_params": 100, "total_params": 1000, "peak_memory_bytes": 7000}
if "eval" in flags:
    (folder / "eval.json").write_text(json.dumps({**sizes, "step": 0, "test": scores, "trainable_params": 0}))
else:
    steps = next((int(f.split("=")[1]) for f in flags if "total_steps" in f), 120)
    rows = [{"step": steps, "examples_per_second": 16.0}] * 3
    (folder / "metrics.jsonl").write_text("\\n".join(map(json.dumps, rows)))
    results = {**sizes, "steps": steps, "final": {"test": scores}}
    (folder / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture(scope="session")
def zero(tiny) -> str:
    """A config that has nothing to train, on the tiny data."""
    path = Path(tiny["config"]).with_name("zero.py")
    path.write_text(ZERO_SHOT.format(tiny=tiny["config"]))
    return str(path)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`stand_in({"tiny/seed_1": "fail"})`: from now on runs are stand-ins, and those named do that."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(compare_runs, "PROGRAM", (sys.executable, "-S", str(script)))

    def set_up(what=None):
        monkeypatch.setenv("FAKE", json.dumps(what or {}))

    set_up()
    return set_up


@pytest.fixture
def compared(tiny, zero, tmp_path, capsys):
    """`compared(*flags)`: compares the two tiny configs with two seeds; (exit code, stdout, stderr)."""

    def call(*flags):
        argv = ["compare", tiny["config"], zero, "--seeds", "2", "--workdir", str(tmp_path / "all"), *flags]
        try:
            main.explain_and_exit(compare.run, argv)
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def table(tmp_path) -> dict[str, dict]:
    with open(tmp_path / "all" / "compare.csv") as file:
        return {row["config"]: row for row in csv.DictReader(file)}


def starts(tmp_path, name) -> int:
    """How often a run was begun."""
    log = tmp_path / "all" / name / "log.txt"
    return log.read_text().count("$ ") if log.exists() else 0


def send_when(path, *numbers):
    """Sends signals to this process, the first when the file appears."""

    def work():
        deadline = time.time() + 120
        while not path.exists() and time.time() < deadline:
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_comparison_for_real(compared, tmp_path, monkeypatch):
    flags = ("--config.total_steps=6", "--config.eval_every=0")
    code, stdout, stderr = compared(*flags)
    assert (code, stderr) == (0, ""), (tmp_path / "all/tiny/seed_0/log.txt").read_text()
    results = [json.loads((tmp_path / f"all/tiny/seed_{k}/results.json").read_text()) for k in (0, 1)]
    assert [one["steps"] for one in results] == [6, 6] and results[0]["final"] != results[1]["final"]
    tiny, zero = table(tmp_path)["tiny"], table(tmp_path)["zero"]
    for key in ("R1", "R5", "R10", "mAP", "mINP"):
        values = [one["final"]["test"]["t2i"][key] for one in results]
        assert float(tiny[f"{key}_mean"]) == pytest.approx(sum(values) / 2)
        assert float(tiny[f"{key}_sd"]) == pytest.approx(statistics.stdev(values))
        # Scoring CLIP as it is, alone, gives what each run found before it began to train.
        assert float(zero[f"{key}_mean"]) == pytest.approx(results[0]["zero_shot"]["test"]["t2i"][key])
        assert float(zero[f"{key}_sd"]) == 0
    params = results[0]["trainable_params"]
    assert (tiny["trainable_params"], zero["trainable_params"]) == (str(params), "0")
    assert int(zero["total_params"]) == int(tiny["total_params"]) - params
    assert int(tiny["memory_bytes"]) == max(one["peak_memory_bytes"] for one in results)
    assert int(tiny["saved_bytes"]) >= 4 * params and zero["saved_bytes"] == "0"
    assert 0 < float(tiny["seconds_per_step"]) < 60 and zero["seconds_per_step"] == ""
    assert "[1 of 4] tiny, seed 0: R@1 " in stdout and "[4 of 4] zero, seed 1: R@1 " in stdout
    assert f"{float(tiny['R1_mean']):.2f} ± {float(tiny['R1_sd']):.2f}" in stdout
    written = (tmp_path / "all" / "compare.md").read_text()
    assert written.startswith("### CUHK-PEDES\n") and "| tiny " in written
    assert (tmp_path / "all" / "compare.png").read_bytes().startswith(b"\x89PNG")
    # Again: everything is there, and nothing is begun.
    monkeypatch.setattr(compare_runs, "PROGRAM", ("false",))
    code, again, _ = compared(*flags)
    assert code == 0 and again.count("was there already") == 4
    assert (tmp_path / "all" / "compare.md").read_text() == written


def test_values_of_the_stand_in(compared, stand_in, tmp_path):
    code, stdout, _ = compared()
    assert code == 0
    row = table(tmp_path)["tiny"]
    # R@1 10 and 11: mean 10.5, deviation 1/sqrt(2). 16 examples a second in batches of 8.
    assert (row["R1_mean"], row["R1_sd"]) == ("10.5", str(0.5**0.5))
    assert (row["seconds_per_step"], row["memory_bytes"], row["saved_bytes"]) == ("0.5", "7000", "400")
    assert (row["steps_min"], row["steps_max"], row["trainable_params"]) == ("120", "120", "100")
    assert table(tmp_path)["zero"]["steps_max"] == "0"
    assert "10.50 ± 0.71" in stdout and "MiniPEDES" not in stdout


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("fail", "FAILED (exit code 2): error: 5.jpg cannot be read: mend it\n"),
        ("bug", "FAILED (exit code 1): ValueError: a bug\n"),
        ("kill", "FAILED (exit code -9): ended by signal 9 (memory?)"),
        ("nothing", "FAILED (exit code 1): ended without results"),
    ],
)
def test_a_failed_run_is_told_and_loses_no_other(compared, stand_in, tmp_path, what, said):
    stand_in({"tiny/seed_0": what})
    code, stdout, stderr = compared()
    assert code == 1 and said in stdout and "1 of 4 runs failed" in stderr, stdout + stderr
    assert str(tmp_path / "all" / "tiny" / "seed_0" / "log.txt") in stdout
    row = table(tmp_path)["tiny"]
    assert (row["done"], row["failed"], row["R1_mean"], row["R1_sd"]) == ("1", "1", "11.0", "")
    assert table(tmp_path)["zero"]["done"] == "2" and "1 of 2, 1 failed" in stdout
    # Once mended, it alone is run again.
    stand_in()
    code, stdout, stderr = compared()
    assert (code, stderr) == (0, "") and stdout.count("was there already") == 3
    assert [starts(tmp_path, f"tiny/seed_{k}") for k in (0, 1)] == [2, 1]
    assert table(tmp_path)["tiny"]["R1_mean"] == "10.5"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_the_run_and_goes_on_later(compared, stand_in, tmp_path, number):
    stand_in({"tiny/seed_1": "wait1"})
    thread = send_when(tmp_path / "all" / "tiny" / "seed_1" / "ready", number)
    code, stdout, stderr = compared("--config.temperature=0.5")
    thread.join()
    assert code == 2 and "[3 of 4] tiny, seed 1: error: stopped after 1\n" in stdout
    line = stderr.removesuffix("\n")
    assert line.startswith("error: stopped at run 3 of 4; to go on: python -m tpr_jax.compare ")
    assert not (tmp_path / "all" / "tiny" / "seed_1" / "ready").exists()  # it was let finish
    written = (tmp_path / "all" / "compare.md").read_text()
    assert "1 of 2" in written and "failed" not in written
    assert [table(tmp_path)[name]["done"] for name in ("tiny", "zero")] == ["1", "1"]
    # The line's own command goes on.
    stand_in()
    argv = shlex.split(line.partition("to go on: ")[2])[2:]
    compare.run(argv)
    assert [starts(tmp_path, f"tiny/seed_{k}") for k in (0, 1)] == [1, 2]
    assert [table(tmp_path)[name]["done"] for name in ("tiny", "zero")] == ["2", "2"]


def test_a_second_ctrl_c_ends_it_at_once(compared, stand_in, tmp_path):
    stand_in({"tiny/seed_0": "wait2"})
    ready = tmp_path / "all" / "tiny" / "seed_0" / "ready"
    thread = send_when(ready, signal.SIGINT, signal.SIGINT)
    code, _, stderr = compared()
    thread.join()
    assert code == 130 and stderr.startswith("error: interrupted")
    assert not ready.exists()  # the run has ended too
    assert "stopped after 2" in (ready.parent / "log.txt").read_text()


def test_a_run_that_another_process_is_at_is_waited_for(compared, stand_in, tmp_path):
    folder = tmp_path / "all" / "tiny" / "seed_0"
    folder.mkdir(parents=True)
    lock = "f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(1.5)"
    command = [sys.executable, "-S", "-c", f"import fcntl, sys, time; {lock}", str(folder / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        began = time.time()
        code, stdout, _ = compared()
        assert code == 0 and time.time() - began > 1
    assert "tiny, seed 0: another process is at it: waiting until that ends ... R@1 10.00" in stdout


def test_the_lock_outlives_a_killed_comparison(stand_in, tiny, tmp_path):
    """The run's process holds it too: without that, two would write the same checkpoints."""
    stand_in({"tiny/seed_0": "wait1"})
    (run,) = compare_runs.plan([tiny["config"]], 1, tmp_path / "all", [])
    asked = threading.Event()
    folder = run["folder"]

    def work():
        with compare_runs.alone(run, asked.is_set, print) as mine:
            seen.append(compare_runs.execute(mine, asked.is_set))

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    while not (folder / "ready").exists():
        time.sleep(0.02)
    pids = [int(p.name) for p in Path("/proc").glob("[0-9]*") if holds(p, folder / "lock")]
    asked.set()
    thread.join()
    assert len(pids) == 2 and os.getpid() in pids
    assert seen == [(None, "error: stopped after 1")]
    with (folder / "lock").open("a") as file:  # and it is free again
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holds(process: Path, path: Path) -> bool:
    try:
        return any(os.readlink(link) == str(path) for link in (process / "fd").iterdir())
    except OSError:
        return False


def test_more_steps_go_on_and_fewer_are_refused(compared, stand_in, tmp_path):
    assert compared("--config.total_steps=10")[0] == 0
    assert compared("--config.total_steps=20")[0] == 0
    row = table(tmp_path)["tiny"]
    assert (row["steps_min"], row["done"]) == ("20", "2")
    assert [starts(tmp_path, f"{name}/seed_0") for name in ("tiny", "zero")] == [2, 1]
    code, _, stderr = compared("--config.total_steps=10")
    assert code == 2 and "seed_0 was trained for 20 steps, more than config.total_steps=10" in stderr
    # What decides nothing may differ.
    code, stdout, _ = compared("--config.total_steps=20", "--config.checkpoint_every=3")
    assert code == 0 and stdout.count("was there already") == 4


def test_another_config_in_the_folder_is_refused(compared, stand_in, tmp_path):
    (tmp_path / "all" / "tiny" / "seed_1").mkdir(parents=True)
    (tmp_path / "all" / "tiny" / "seed_1" / "config.json").write_text('{"seed": 5}')
    code, stdout, stderr = compared()
    assert (code, stdout) == (2, "") and "seed_1 holds a run of another config: config.seed was 5" in stderr


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
        (["CONFIG", "--seeds", "0"], "--seeds 0: at least 1"),
        (["CONFIG", "--seeds", "many"], "invalid int value: 'many'"),
        (["CONFIG", "--sed", "3"], "unrecognized arguments: --sed"),
        (["CONFIG", "CONFIG"], "is given twice: leave one out"),
        ([], "no config is named"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_runs(tiny, tmp_path, flags, words, capsys):
    flags = [flag.replace("CONFIG", tiny["config"]) for flag in flags]
    with pytest.raises(SystemExit) as ended:
        main.explain_and_exit(compare.run, ["compare", "--workdir", str(tmp_path / "all"), *flags])
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert words.replace("CONFIG", tiny["config"]) in line
    assert not (tmp_path / "all").exists()


def test_workdir_missing_or_a_file(tiny, tmp_path, stand_in):
    with pytest.raises(UserError, match="--workdir is missing"):
        compare.run(["compare", tiny["config"]])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written .*: choose another --workdir"):
        compare.run(["compare", tiny["config"], "--workdir", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"


def test_help(capsys):
    for argv, code in ((["compare", "--help"], 0), (["compare"], 2)):
        with pytest.raises(SystemExit) as ended:
            main.explain_and_exit(compare.run, argv)
        assert ended.value.code == code
        assert "python -m tpr_jax.compare CONFIG... --seeds N --workdir DIR" in capsys.readouterr().out


def test_names_tell_configs_apart():
    names = compare_runs.names_of
    assert names(["configs/a.py", "configs/b.py:cuhk_pedes"]) == ["a", "b:cuhk_pedes"]
    assert names(["configs/a.py", "configs/a.py:cuhk_pedes"]) == ["a", "a:cuhk_pedes"]
    assert names(["/x/one/a.py", "/x/two/a.py", "b.py"]) == ["one/a", "two/a", "b"]
    # Different names, the same folder: that would not do either.
    assert len({*map(compare_runs.folder_of, names(["/x/a-c.py", "/y/a.py:c"]))}) == 2
    for twice in (["a.py", "a.py"], ["a.py", "./a.py"]):
        with pytest.raises(UserError, match="given twice"):
            names(twice)


def test_the_first_logged_step_is_left_out_of_the_time():
    rows = [{"examples_per_second": speed} for speed in (0.1, 8.0, 4.0, 16.0)] + [{"val": {}}]
    assert compare_runs.seconds_per_step(rows, 8) == 1.0  # of 1, 2 and a half
    assert compare_runs.seconds_per_step(rows[:1], 8) is None


def test_saved_bytes_are_those_of_the_file_where_there_is_one(tmp_path):
    assert compare_runs.saved_bytes({"trainable_params": 25}, tmp_path) == 100
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter.safetensors").write_bytes(b"x" * 123)
    assert compare_runs.saved_bytes({"trainable_params": 25}, tmp_path) == 123


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"final": {}}'])
def test_results_that_cannot_be_read_are_made_again(compared, stand_in, tmp_path, damage):
    assert compared()[0] == 0
    (tmp_path / "all" / "tiny" / "seed_0" / "results.json").write_text(damage)
    code, stdout, _ = compared()
    assert code == 0 and stdout.count("was there already") == 3
    assert table(tmp_path)["tiny"]["done"] == "2"
