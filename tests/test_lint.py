"""The linter's exceptions in pyproject.toml: each is still needed."""

import json
import os
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import pytest

from tests.conftest import ROOT

LINT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
PERMANENT = {"tests/**", "{configs,docs,notebooks}/**"}
EXCEPTIONS = {
    (pattern, rule)
    for pattern, rules in LINT["per-file-ignores"].items()
    if pattern not in PERMANENT
    for rule in rules
}


@pytest.fixture(scope="module")
def findings() -> set[tuple[str, str]]:
    """Returns (file, rule) of every finding with the exceptions switched off."""
    command = [sys.executable, "-m", "ruff", "check", "--config", "lint.per-file-ignores={}", "--no-cache"]
    done = subprocess.run(
        [*command, "--output-format", "json", "."], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    found = json.loads(done.stdout)
    return {(os.path.relpath(one["filename"], ROOT), one["code"]) for one in found}


def test_exceptions_are_still_needed(findings):
    unneeded = {
        (pattern, rule)
        for pattern, rule in EXCEPTIONS
        if not any(rule == code and fnmatch(file, pattern) for file, code in findings)
    }
    assert unneeded == set(), "remove these from per-file-ignores"


def test_complexity_ceiling_is_as_low_as_possible():
    """A simpler function must lower the ceiling, so that it only falls."""
    lower = f"lint.mccabe.max-complexity={LINT['mccabe']['max-complexity'] - 1}"
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        "C901",
        "--config",
        lower,
        "--no-cache",
        ".",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "C901" in done.stdout, "lower max-complexity in pyproject.toml"


def test_complexity_is_excepted_for_single_files_only():
    """An exception for a whole folder would hide new functions."""
    assert [pattern for pattern, rule in EXCEPTIONS if rule == "C901" and "*" in pattern] == []
