"""Updates an index in child processes, each killed at a different one of its file operations.

    python tests/search_killed.py PHOTOS INDEX CLIP OUT

For N = 1, 2, ..., INDEX is copied to OUT/N (if it exists), and a child indexes PHOTOS there. The child is
killed before its N-th operation that opens a file for writing, renames, removes or chmods one, or makes or
removes a folder. Ends at the first N that a child does not reach.

The children share the imports of this process. `stand_in` replaces the model, so that nothing is compiled.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tpr_jax.models.config import ClipConfig
from tpr_jax.search.index import build as build_lib
from tpr_jax.search.query import exact

WIDTH = 6
CHANGING = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")


def stand_in(patch) -> None:
    """Makes `build` encode a photo as the mean colors of its halves, by `patch(module, name, value)`."""
    config = ClipConfig(image_size=(32, 16), embed_dim=WIDTH)
    model = SimpleNamespace(config=config, mean=(0.0,) * 3, std=(1.0,) * 3)
    patch(build_lib, "from_pretrained", lambda *args: model)
    patch(build_lib, "make_encoder", lambda model: (encode, 1))
    patch(build_lib, "SHARD_ROWS", 3)
    patch(exact, "MIN_VECTORS", 1)


def encode(pixels) -> np.ndarray:
    """Encodes uint8 [b, 32, 16, 3] as float16 [b, 6] of length 1."""
    halves = pixels.reshape(len(pixels), 2, 16, 16, 3).mean((2, 3)).reshape(len(pixels), WIDTH) + 1
    return (halves / np.linalg.norm(halves, axis=1, keepdims=True)).astype(np.float16)


def kill_at(number: int, folder: Path) -> None:
    """Kills this process before its N-th operation that changes something in the folder."""
    left = number

    def watch(event: str, args: tuple) -> None:
        nonlocal left
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if not (writes or event in CHANGING) or not str(args[0]).startswith(str(folder)):
            return
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main(photos: Path, index: Path, clip: str, out: Path) -> None:
    """Indexes in children until one is not killed."""
    stand_in(setattr)
    kill_each(index, out, lambda here: build_lib.build(photos, here, clip, batch_size=2))


def kill_each(index: Path, out: Path, work: Callable[[Path], object]) -> None:
    """Calls `work(OUT/N)` in children until one is not killed."""
    number = 0
    while True:
        number += 1
        here = out / str(number)
        if index.exists():
            shutil.copytree(index, here)
        if not (child := os.fork()):
            kill_at(number, here)
            work(here)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
