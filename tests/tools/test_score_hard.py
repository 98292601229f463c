"""Scores by condition on the hard MiniPEDES, on similarities written by hand."""

import subprocess
import sys

import numpy as np

from tools.score_hard import score
from tpr_jax.data.mini_pedes import bundled_dir, generate

RECORDS = [
    {"hard": ["night"], "group": 1},
    {"hard": ["night", "jpeg"], "group": 1},
    {"hard": []},
    {"hard": ["jpeg"]},
]


def test_scores_by_condition_and_of_look_alikes():
    first = [0, 1, 1, 3, 2, 0, 0, 3]  # of the queries of images 0, 0, 1, 1, 2, 2, 3, 3
    similarity = 0.5 * np.eye(4)[first]
    similarity[3, :2] = [0.1, 0.2]  # among the look-alikes, the right one is first
    images = np.repeat(np.arange(4), 2)
    assert score(similarity, images, RECORDS) == {
        "all": 50.0,  # queries 0, 2, 4 and 7
        "none": 50.0,
        "jpeg": 50.0,
        "night": 50.0,
        "look-alikes": 50.0,
        "confused": 25.0,  # query 1
        "among 4": 75.0,
    }


def test_without_look_alikes_their_scores_are_nan():
    scores = score(np.eye(2), np.arange(2), RECORDS[2:])
    assert scores["all"] == 100.0 and "night" not in scores
    assert np.isnan([scores["look-alikes"], scores["confused"], scores["among 4"]]).all()


def test_the_command(tmp_path):
    generate.generate(
        str(tmp_path / "hard"), split="test", identities=8, domain="hard", size=(96, 32), progress=False
    )
    command = [sys.executable, "-m", "tools.score_hard", "clip-mini", "--data"]
    done = subprocess.run([*command, str(tmp_path / "hard")], capture_output=True, text=True, check=True)
    header, _, row = done.stdout.splitlines()
    assert header.startswith("| model | all | none |") and row.startswith("| clip-mini | ")
    assert len(row.split("|")) == len(header.split("|"))
    wrong = subprocess.run([*command, bundled_dir()], capture_output=True, text=True)
    assert wrong.returncode == 2 and "--hard" in wrong.stderr and wrong.stderr.count("\n") == 1
