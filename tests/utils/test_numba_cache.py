"""Numba without a folder for its cache, and with an unusable one."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import ROOT
from tpr_jax.utils import numba_cache

pytestmark = pytest.mark.skipif(numba_cache.numba is None, reason="Numba is not installed")

# Both kernels of the ranking, that of the search's codes and that of the renderer are called once.
CALLS = """
import numpy as np
import tpr_jax
import tpr_jax.train.evaluate
from tpr_jax import metrics
from tpr_jax.metrics import ranking
from tpr_jax.data.mini_pedes import raster
from tpr_jax.search.query import exact as codes

assert tpr_jax.__file__.startswith(HERE), tpr_jax.__file__
feats = np.eye(3, dtype=np.float32)
scores = metrics.retrieval_metrics(feats, feats, np.arange(3), np.arange(3))
out = np.empty(5, np.int32)
codes._multiply(np.full((5, 2), 3, np.int8), np.array([2, 4], np.int32), out)
screen = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1]], np.float64)
depth, index, _ = raster.rasterize(screen, np.array([[0, 1, 2]], np.int32), 4, 4)
print(scores["t2i"]["R1"], out.tolist(), index.max())
"""


@pytest.fixture
def read_only(tmp_path) -> Path:
    """A copy of the package where Numba cannot write a cache, not even as root."""
    package = tmp_path / "site" / "tpr_jax"
    shutil.copytree(ROOT / "tpr_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()  # a file where Numba, and Python, would make a folder
    return package.parent


def environment(place: Path) -> dict[str, str]:
    """An environment without a home folder or cache folders."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    return kept | {"HOME": "/dev/null/nonexistent", "PYTHONPATH": str(place)}


def test_a_read_only_package_without_a_home(read_only):
    refused = "import numba; from tpr_jax.metrics import ranking; numba.njit(cache=True)(ranking._count_loop)"
    where = {"cwd": read_only, "env": environment(read_only), "capture_output": True, "text": True}
    plain = subprocess.run([sys.executable, "-c", refused], **where)
    assert "no locator available" in plain.stderr  # the very trouble
    process = subprocess.run([sys.executable, "-c", f"HERE = {str(read_only)!r}\n{CALLS}"], **where)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "100.0 [18, 18, 18, 18, 18] 0\n"


def test_commands_run_there(read_only):
    """The commands import compiled functions."""
    where = {"cwd": read_only, "env": environment(read_only), "capture_output": True, "text": True}
    for command in (["search", "query", "red", "--index", "none"], ["compare", "none.py", "--workdir", "w"]):
        process = subprocess.run([sys.executable, "-m", f"tpr_jax.{command[0]}", *command[1:]], **where)
        assert (process.returncode, process.stderr[:7]) == (2, "error: "), process.stderr
    process = subprocess.run([sys.executable, "-c", "import tpr_jax.cross"], **where)
    assert (process.returncode, process.stderr) == (0, "")


def double(numbers):
    for i in range(len(numbers)):
        numbers[i] *= 2
    return numbers.sum()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), EOFError(), pickle.UnpicklingError("truncated")],
    ids=lambda error: type(error).__name__,
)
def test_a_cache_that_fails_at_the_first_call(monkeypatch, error):
    numba = numba_cache.numba

    def broken(**options):
        def fail(*_):
            raise error

        return (lambda function: fail) if options.pop("cache", False) else numba.njit(**options)

    # Not within Numba itself, which uses its own `njit` for what it knows of NumPy.
    monkeypatch.setattr(numba_cache, "numba", SimpleNamespace(njit=broken))
    compiled = numba_cache.njit(double, nogil=True)
    numbers = np.arange(4)
    assert compiled(numbers) == 12 and numbers.tolist() == [0, 2, 4, 6]
    assert compiled(numbers) == 24


def test_it_is_compiled_and_says_what_it_is():
    compiled = numba_cache.njit(double)
    assert compiled(np.arange(4)) == 12 and compiled.__name__ == "double"
    with pytest.raises(numba_cache.numba.TypingError):  # as Numba says it: nothing is run by Python instead
        compiled("text")


def test_nothing_else_uses_numbas_cache():
    for path in (ROOT / "tpr_jax").rglob("*.py"):
        assert path.name == "numba_cache.py" or "cache=True" not in path.read_text(encoding="utf-8"), path
