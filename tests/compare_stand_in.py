"""Fixtures that compare two tiny configs with a stand-in for their runs."""

import csv
import json
import sys
from pathlib import Path

import pytest

from tpr_jax.cli.exit import explain_and_exit, explain_stopped
from tpr_jax.compare import __main__ as compare
from tpr_jax.compare import runs as compare_runs

ZERO_SHOT = """
import runpy

def get_config():
    config = runpy.run_path({tiny!r})["get_config"]()
    config.method = {{"name": "zero_shot"}}
    config.losses.balance = 0.0
    return config
"""

# Writes a run's files at once, with R@1 = 10 + seed; or does what FAKE says for it.
STAND_IN = """
import json, os, pathlib, signal, sys, time

flags = sys.argv[1:]
folder = pathlib.Path(flags[flags.index("--workdir") + 1])
what = json.loads(os.environ["FAKE"]).get(f"{folder.parent.name}/{folder.name}", "")
if what == "fail":
    print("error: 5.jpg cannot be read: fix it", "and a library's last words", sep="\\n", file=sys.stderr)
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
scores["i2t"] = {"R1": 2 * r1, "R5": 40.0, "R10": 60.0, "mAP": 30.0, "mINP": 10.0}
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


@pytest.fixture(scope="session", name="zero")
def zero_fixture(tiny) -> str:
    """Returns the path of a config without trainable parameters, on the tiny data."""
    path = Path(tiny["config"]).with_name("zero.py")
    path.write_text(ZERO_SHOT.format(tiny=tiny["config"]))
    return str(path)


@pytest.fixture(name="stand_in")
def stand_in_fixture(tmp_path, monkeypatch):
    """Returns `stand_in({"tiny/seed_1": "fail"})`, which replaces the runs and sets what some of them do."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(compare_runs, "PROGRAM", (sys.executable, "-S", str(script)))

    def set_up(what=None):
        monkeypatch.setenv("FAKE", json.dumps(what or {}))

    set_up()
    return set_up


@pytest.fixture(name="compared")
def compared_fixture(tiny, zero, tmp_path, capsys):
    """Returns `compared(*flags)`, which compares the configs with two seeds: (exit code, stdout, stderr)."""

    def call(*flags):
        argv = ["compare", tiny["config"], zero, "--seeds", "2", "--workdir", str(tmp_path / "all"), *flags]
        try:
            explain_and_exit(compare.run, argv, explain_stopped)
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def table(tmp_path) -> dict[str, dict]:
    with open(tmp_path / "all" / "compare.csv") as file:
        return {row["config"]: row for row in csv.DictReader(file)}


def starts(tmp_path, name) -> int:
    """Returns how often a run was started."""
    log = tmp_path / "all" / name / "log.txt"
    return log.read_text().count("$ ") if log.exists() else 0
