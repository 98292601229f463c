"""`make`: an environment for each Python, locked by hashes; without a network, from wheels made here."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
NEEDED = ("Makefile", "requirements-uv.lock")
VERSION = "{}.{}".format(*sys.version_info)


def make(folder, *words, **variables) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "MAKE"))}
    variables = {**kept, "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "PIP_FIND_LINKS": str(folder), **variables}
    command = ["make", *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)


def wheel(folder, version: str) -> str:
    """Writes a package of one module; returns its SHA-256."""
    path, info = folder / f"toy-{version}-py3-none-any.whl", f"toy-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("toy.py", f"VERSION = {version!r}\n")
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", f"toy.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with the real Makefile, whose environment `.other` exists."""
    folder = tmp_path_factory.mktemp("project")
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    for name in ("requirements.txt", "requirements-tensorflow.txt", "requirements.lock"):
        (folder / name).write_text("toy>=1\n" if name == "requirements.txt" else "")
    subprocess.run([sys.executable, "-m", "venv", folder / ".other"], check=True, timeout=300)
    return folder


def installed(folder) -> str | None:
    code = "import toy; print(toy.VERSION)"
    command = [folder / ".other/bin/python", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip() or None


def test_a_lock_is_installed_as_it_says_or_not_at_all(folder):
    words = ("VENV=.other", f"PYTHON={sys.executable}", ".other/.installed")
    right = wheel(folder, "1.0")

    (folder / "requirements.lock").write_text(f"toy==1.0 --hash=sha256:{'0' * 64}\n")
    done = make(folder, *words)
    assert done.returncode != 0 and "a file does not match its hash in requirements.lock" in done.stderr
    assert installed(folder) is None and not (folder / ".other/.installed").exists()

    (folder / "requirements.lock").write_text(f"toy==1.0 --hash=sha256:{right}\n")
    done = make(folder, *words)
    assert done.returncode == 0 and installed(folder) == "1.0", done.stderr

    # A version that does not exist, as if a package had none for this machine: the ranges apply.
    wheel(folder, "1.1")
    (folder / "requirements.lock").write_text(f"toy==7.0 --hash=sha256:{right}\n")
    subprocess.run(
        [folder / ".other/bin/python", "-m", "pip", "uninstall", "-qy", "toy"], timeout=120, check=True
    )
    done = make(folder, *words)
    assert done.returncode == 0 and installed(folder) == "1.1", done.stderr
    assert (
        "do not fit this Python; installing what requirements.txt requirements-tensorflow.txt allows"
        in done.stdout
    )
    assert not (folder / ".venv").exists()


def stand_in(folder, version: str) -> str:
    """Writes a program that reports this Python version."""
    path = folder / f"python{version}"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


def test_an_environment_of_another_python_is_not_used_in_silence(folder, tmp_path):
    other = stand_in(tmp_path, "3.99")
    for done in (
        make(folder, "-n", "VENV=.other", f"PYTHON={other}", ".other/.installed"),
        make(folder, "-n", "VENV=.other", ".other/.installed", PYTHON=other),
    ):
        assert done.returncode == 2 and f".other has Python {VERSION}" in done.stderr, done.stderr
        assert "(3.99)" in done.stderr and "VENV=" in done.stderr and "Traceback" not in done.stderr
    for words in (
        ("VENV=.other", f"PYTHON={sys.executable}", ".other/.installed"),
        ("VENV=.other", f"PYTHON={other}", "clean"),
        ("VENV=.another", f"PYTHON={other}", "help"),
        ("VENV=.other", "help"),
    ):
        assert make(folder, "-n", *words).returncode == 0


def test_everything_of_an_environment_lies_in_it():
    shown = make(
        ROOT, "-n", "-B", "VENV=.another", "test", "test-slow", "test-torch", "test-beam", "docs", "clean"
    ).stdout
    assert ".another/bin/python -m pytest" in shown and "rm -rf .another " in shown
    assert ".venv" not in shown.replace(".another", "")


def test_locks_are_installed_by_their_hashes():
    shown = make(ROOT, "-n", "-B", "VENV=.another", ".another/.test-tools", ".another/.docs").stdout
    for name in (
        "requirements.lock",
        "requirements-test.lock",
        "requirements-docs.lock",
        "requirements-uv.lock",
    ):
        lines = [line for line in shown.splitlines() if f"-r {name}" in line]
        assert lines and all(f"--require-hashes -r {name}" in line for line in lines)
