"""Fixtures that reproduce on small copies of the benchmarks, with stand-ins for what computes."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest

from tests import benchmark_folders
from tpr_jax.cli.exit import explain_and_exit, explain_stopped
from tpr_jax.compare import runs as compare_runs
from tpr_jax.data.datasets import DATASETS, Counts
from tpr_jax.reproduce import __main__ as reproduce
from tpr_jax.reproduce import estimate, transfer

NAMES = ("cuhk_pedes", "icfg_pedes", "rstp_reid")
SIZES = {
    "cuhk_pedes": {"train": Counts(4, 8, 18), "val": Counts(2, 4, 9), "test": Counts(3, 6, 13)},
    "icfg_pedes": {"train": Counts(4, 12, 12), "test": Counts(3, 9, 9)},
    "rstp_reid": {"train": Counts(4, 20, 40), "val": Counts(2, 10, 20), "test": Counts(3, 15, 30)},
}
ENVIRONMENT = {"platform": "gpu", "device": "NVIDIA H200", "devices": 1, "versions": {"jax": "1.2.3"}}

# Takes the place of a run, a measurement and the test across data sets. R@1 of a run is the number that FAKE
# gives for DM-Adapter on CUHK-PEDES, 70 elsewhere, plus its seed; its best epoch on val has one point less,
# its last one two.
STAND_IN = """
import csv, json, os, pathlib, signal, sys, time

kind, *flags = sys.argv[1:]
fake = json.loads(os.environ["FAKE"])
environment = fake["environment"]
value = lambda flag: flags[flags.index(flag) + 1]
if kind == "cross":
    if fake.get("cross"):
        sys.exit(f"error: {fake['cross']}")
    models = flags[: flags.index("--data")]
    tested = [word.partition("=")[0] for word in flags[flags.index("--data") + 1 : flags.index("--out")]]
    with open(pathlib.Path(value("--out")) / "cross.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "trained_on", "tested_on", "direction", "R1", "R5", "R10", "mAP", "mINP"])
        for i, model in enumerate(models):
            for name in tested:
                for direction in ("t2i", "i2t"):
                    writer.writerow([model, "", name, direction, 40.0 + i, 50, 60, 30, 20])
    sys.exit(0)
folder = pathlib.Path(value("--workdir"))
name = folder.name if kind == "measure" else f"{folder.parent.name}/{folder.name}"
what = fake.get(f"{kind} {name}", "")
with open(folder / "starts", "a") as file:
    file.write("x")
if what == "fail":
    print("error: 5.jpg cannot be read: fix it", file=sys.stderr)
    sys.exit(2)
if what == "wait":
    came = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    (folder / "ready").touch()
    while not came:
        time.sleep(0.01)
    (folder / "ready").unlink()
    print("error: stopped")
    sys.exit(2)
sizes = {"trainable_params": 100, "total_params": fake["params"] + 100}
if kind == "measure":
    measured = {"steps": 3600, "step_seconds": 0.5, "encoded_images": 100, "image_seconds": 0.1}
    measured |= {"mode": value("--mode"), "startup_seconds": 20.0, "test_images": 10}
    weights = {"name": "clip", "revision": None, "sha256": "a" * 64}
    measured |= {"environment": environment, "weights": weights}
    (folder / "measured.json").write_text(json.dumps(measured))
    sys.exit(0)
r1 = 70.0 + int(folder.name.removeprefix("seed_"))
if folder.parent.name == "dm_adapter-cuhk_pedes":
    r1 += fake["dm_adapter"] - 70.0
scores = lambda r1: {"R1": r1, "R5": 80.0, "R10": 90.0, "mAP": 60.0, "mINP": 50.0}
both = lambda r1: {"test": {"t2i": scores(r1), "i2t": scores(r1 + 5)}}
if value("--mode") == "eval":
    result = {"environment": environment, **sizes, "trainable_params": 0, **both(12.0)}
    result["total_params"] -= 100
    (folder / "eval.json").write_text(json.dumps(result))
else:
    result = {"environment": environment, **sizes, "steps": 9, "seconds": 1800.0, "final": both(r1 - 2)}
    result |= {"best_on_val": {"epoch": 2, **both(r1 - 1)}, "best_on_test": {"epoch": 3, **both(r1)}}
    if "icfg" in folder.parent.name:
        result["best_on_val"] = None
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps({"backbone": {"sha256": "a" * 64}}))
    (folder / "results.json").write_text(json.dumps(result))
"""


@pytest.fixture(name="benchmarks")
def benchmarks_fixture(tmp_path, monkeypatch):
    """Returns the folders of three small copies, whose sizes count as the official ones."""
    for name in NAMES:
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], counts=SIZES[name]))
    return {name: benchmark_folders.ALL[name](tmp_path / "data" / name) for name in NAMES}


@pytest.fixture(name="stand_in")
def stand_in_fixture(tmp_path, monkeypatch):
    """Returns `stand_in(params=..., dm_adapter=..., **behavior)`, which says what the processes do."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    python = (sys.executable, "-S", str(script))
    monkeypatch.setattr(compare_runs, "PROGRAM", (*python, "run"))
    monkeypatch.setattr(estimate, "PROGRAM", (*python, "measure"))
    monkeypatch.setattr(transfer, "PROGRAM", (*python, "cross"))

    def set_up(behavior=None, params=149_617_664, dm_adapter=70.0):
        fake = {"params": params, "dm_adapter": dm_adapter, "environment": ENVIRONMENT}
        monkeypatch.setenv("FAKE", json.dumps(fake | (behavior or {})))

    set_up()
    return set_up


@pytest.fixture(name="reproduced")
def reproduced_fixture(tmp_path, capsys):
    """Returns `reproduced(*words)`, which runs the command: its `code`, `out` and `err`."""

    def call(*words):
        code = 0
        try:
            explain_and_exit(reproduce.run, ["reproduce", *map(str, words)], explain_stopped)
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


def document(workdir) -> dict:
    """Reads the reproduction.json of a workdir."""
    return json.loads((workdir / "reproduction.json").read_text())


def rows(workdir) -> dict[tuple[str, str], dict]:
    """Reads the rows of a workdir, by method and data set."""
    return {(row["method"], row["dataset"]): row for row in document(workdir)["rows"]}


def starts(folder) -> int:
    """Returns how often a process was started in a folder."""
    path = folder / "starts"
    return len(path.read_text()) if path.exists() else 0
