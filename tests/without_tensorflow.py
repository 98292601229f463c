"""Python processes in which TensorFlow is not installed, as on Python 3.14.

They start in two thirds of the time, so tests that start many processes use them where another test covers
the same with tf.data. Both ways yield the same batches bit for bit (`data/test_prefetch.py`).
"""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent

# As a program's first lines: neither TensorFlow nor a package that needs it can be imported.
BLOCK = """
import sys


class Blocked:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked)
"""


def environment(folder: Path) -> dict[str, str]:
    """Returns the variables of such a process; `folder` receives what Python imports first."""
    site = folder / "sitecustomize.py"
    if not site.exists():  # a process that was started before may be reading it
        site.write_text(BLOCK)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
