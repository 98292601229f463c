"""The command line: its checks, its output, and what it says when it is stopped."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tpr_jax.adapt import __main__ as command
from tpr_jax.adapt import run
from tpr_jax.errors import UserError
from tpr_jax.utils.signals import Stopped

WORDS = ["--model", "clip-mini", "--photos", "photos", "--out", "out"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--batch_size", "-1"], "--batch_size -1: must be at least 1"),
        (["--lr", "0"], "--lr 0.0: must be a number above 0"),
        (["--lr", "nan"], "--lr nan: must be a number above 0"),
        (["--temperature", "inf"], "--temperature inf: must be a number above 0"),
        (["--seed", "-1"], "--seed -1 must be a whole number from 0 to 4294967295"),
        (["--train", "part"], "'part' is unknown: did you mean 'parts'?"),
        (["--photo_dir", "x"], "--photo_dir is unknown"),
    ],
)
def test_rejects_a_value(words, told, monkeypatch):
    monkeypatch.setattr(run, "adapt", lambda *_, **__: pytest.fail("must not begin"))
    with pytest.raises(UserError) as error:
        command.run(["adapt", *WORDS, *words])
    assert told in str(error.value)


def test_passes_its_flags_on(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr(run, "adapt", lambda settings, out: seen.append((settings, out)))
    words = ["--texts", "t.txt", "--train", "parts", "--steps", "3", "--lr", "0.1", "--temperature", "0.5"]
    words += ["--batch_size", "4", "--seed", "7"]
    command.run(["adapt", "--model", "m", "--photos", "p", "--out", str(tmp_path), *words])
    assert seen == [
        (run.Settings("m", "p", "t.txt", "parts", 3, 0.1, temperature=0.5, batch_size=4, seed=7), tmp_path)
    ]
    assert capsys.readouterr().out == f"model written to {tmp_path}\n"
    command.run(["adapt", *WORDS])
    assert seen[1][0] == run.Settings(
        "clip-mini", "photos", None, "layer_norm", 20, 2e-3, batch_size=32, temperature=0.05, seed=0
    )


def test_says_how_to_resume(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["adapt", "--out", "a b"])
    code, line = command.explain(Stopped(signal.SIGINT, "stopped; step 20 is saved"))
    assert code == 130
    assert line == ("error: stopped; step 20 is saved; resume with: python -m tpr_jax.adapt --out 'a b'")
    assert command.explain(Stopped(signal.SIGTERM, "x"))[0] == 2
    assert command.explain(UserError("x")) == (2, "error: x")


def test_a_process_is_stopped_and_resumed(tiny, tmp_path):
    (tmp_path / "t.txt").write_text("a red coat\nblue trousers\n")
    words = [
        sys.executable,
        "-m",
        "tpr_jax.adapt",
        "--model",
        tiny["clip"],
        "--photos",
        f"{tiny['data']}/imgs",
    ]
    words += ["--texts", str(tmp_path / "t.txt"), "--out", str(tmp_path / "out"), "--batch_size", "4"]
    long = subprocess.Popen(
        [*words, "--steps", "100000"], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    saved = tmp_path / "out" / "checkpoints" / "20"
    while not saved.exists() and long.poll() is None:
        time.sleep(0.05)
    long.send_signal(signal.SIGTERM)
    _, told = long.communicate(timeout=300)
    assert long.returncode == 2
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: stopped; ") and "resume with: python -m tpr_jax.adapt --model" in last
    settings = json.loads((tmp_path / "out" / "adapt.json").read_text())["settings"]
    assert settings["steps"] == 100000 and not (tmp_path / "out" / "config.json").exists()
    done = subprocess.run([*words, "--steps", "30"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "holds an adaptation with --steps 100000, not 30" in done.stderr
