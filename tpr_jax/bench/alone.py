"""Measures in a process of its own, whose peak memory is then that of the measurement alone."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence

from tpr_jax.utils import markdown


def evaluate(module: str, expression: str) -> dict:
    """Returns the value of an expression of the names of a module; it must be JSON."""
    command = [sys.executable, "-c", f"import json; from {module} import *; print(json.dumps({expression}))"]
    # A session of its own: Ctrl-C reaches only this process, which then ends the other.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True)
    return json.loads(done.stdout)


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a Markdown table, each row as soon as it is measured."""
    known: list[Sequence[str]] = []
    for row in rows:
        known.append(row)
        lines = markdown.table(header, known).splitlines()
        yield from lines if len(known) == 1 else lines[-1:]
