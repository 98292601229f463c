"""The first moments of a command, in which Ctrl-C ends it with one line and exit code 130.

`tpr_jax/__init__.py` calls `begin` before anything else is imported, so nothing here may take time to import.
"""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence

from tpr_jax.utils.ending import exit_immediately

PACKAGE, SCRIPT = "tpr_jax", "tpr-jax"
INTERRUPTED = 130, "error: interrupted; rerun the same command to resume"
# Importing and tracing make many objects that stay. With a collection for each 700 of them, Python's default,
# collections took a sixth of the CPU time of a short run.
OBJECTS_PER_COLLECTION = 50_000


def is_command(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Returns whether Python runs a command of this package, rather than a program that imports it.

    Args:
      argv: `sys.argv` during the first import of the package. Its first word is `-m` while Python looks for
        the module to run.
      original: `sys.orig_argv`, with the options of Python itself.
    """
    if not 0 < len(argv) <= len(original):
        return False
    program = original[-len(argv)]  # what the first word of `argv` stands for
    if argv[0] == "-m":
        return program.removeprefix("-m").partition(".")[0] == PACKAGE
    return argv[0] == program and os.path.splitext(os.path.basename(program))[0] == SCRIPT


# Decided at the first import: later, `sys.argv` is the command's own.
IS_COMMAND = is_command(sys.argv, sys.orig_argv)


def begin() -> None:
    """Makes Ctrl-C end the process with one line until the command handles it itself.

    Also collects garbage less often in this process.
    """
    exit_immediately({signal.SIGINT: INTERRUPTED})
    # Once Python shuts down, the command is done. What is registered first is called last.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(OBJECTS_PER_COLLECTION, *gc.get_threshold()[1:])
