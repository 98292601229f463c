"""A small disk for a command, which fills up, and is then enlarged."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PRIVATE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")

# A full disk, the same disk enlarged, and the same command again. Its files are copied before the disk goes.
ENLARGED = """
mount -t tmpfs -o size=$1k tmpfs "$2"
folder=$2 copy=$3
shift 3
"$@"
echo "first $?"
mount -o remount,size=200m "$folder"
"$@"
echo "second $?"
cp -r "$folder/." "$copy"
"""


@pytest.fixture(scope="module")
def on_small_disk(tmp_path_factory):
    """Returns `call(kilobytes, *command)`, which runs a command with a disk of this size, and its folder."""
    disk = tmp_path_factory.mktemp("disk")

    def call(kilobytes: int, *command):
        script = f'mount -t tmpfs -o size={kilobytes}k tmpfs "$0" && exec "$@"'
        words = [*PRIVATE, script, disk, *command]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)

    try:
        works = call(8, "true").returncode == 0
    except FileNotFoundError:
        works = False
    if not works:
        pytest.skip("only a Linux that lets its users mount can give a test a disk of its own")
    return call, disk


def run_enlarging(
    kilobytes: int, disk: Path, copy: Path, command: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Runs a command until the disk is full, and again once it is larger; copies what it wrote to `copy`.

    The first must end with one line, and the second without any error.
    """
    words = [*PRIVATE, ENLARGED, "sh", str(kilobytes), str(disk), str(copy), *command]
    process = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert "first 2\n" in process.stdout and process.stdout.endswith("second 0\n"), process
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: no space left on the disk of "), line
