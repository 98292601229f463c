"""How a command ends: exit codes, and one line in place of a traceback for errors a user can fix.

| code | meaning                                                                  |
|------|--------------------------------------------------------------------------|
| 0    | done, or stopped by SIGTERM with everything saved                        |
| 1    | a bug, with its traceback                                                |
| 2    | an error the user can fix                                                |
| 130  | interrupted (Ctrl-C); a training run has saved everything before         |
| 141  | the reader of the output has closed the pipe                             |
"""

import errno
import os
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Sequence

from tpr_jax.cli import start
from tpr_jax.cli.start import INTERRUPTED
from tpr_jax.errors import UserError, describe_disk_limit
from tpr_jax.utils import ending, signals
from tpr_jax.utils.escape import escape_unprintable
from tpr_jax.utils.streams import quiet_when_closed

Command = Callable[[list[str]], object]
Verdict = Callable[[BaseException], tuple[int, str]]


def explain_and_exit(
    command: Command,
    argv: list[str],
    explain: Verdict | None = None,
    *,
    raising: Collection[int] = (signal.SIGINT,),
    shut_down: bool = True,
) -> None:
    """Runs a command; an error that a user can fix ends the process with one line and exit code 2.

    Every printed line is flushed immediately, even through a pipe. If nobody reads the output, the process
    ends with exit code 141.

    Args:
      command: the command's `run(argv)`.
      argv: the command line, with the program's name first.
      explain: maps an error to (exit code, line to print), as `verdict` does, which is the default.
      raising: the signals that raise KeyboardInterrupt while the command runs. Others end the process
        immediately, as all do before: nothing has to be saved or removed.
      shut_down: whether Python shuts down in the usual way after the command. With JAX that takes a third of
        a second, which a command saves that leaves nothing to be done.

    Raises:
      SystemExit: the command failed in a way that `explain` knows.
    """
    silence_native_logs()
    if reconfigure := getattr(sys.stdout, "reconfigure", None):  # a notebook's stdout has none
        reconfigure(line_buffering=True)
    is_process = start.IS_COMMAND and ending.ends_immediately()

    def interruptible(argv: list[str]) -> object:
        with signals.raise_interrupt(raising):
            return command(argv)

    with quiet_when_closed():
        code = exit_code(interruptible, argv, explain)
        if is_process and (code == INTERRUPTED[0] or not shut_down):
            # During Python's own shutdown, threads that are in C++ code may crash.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        if code:
            raise SystemExit(code)


def exit_code(command: Command, argv: list[str], explain: Verdict | None = None) -> int:
    """Runs a command, prints one line for an error that a user can fix, and returns the exit code.

    See `explain_and_exit` for the arguments. An int that the command returns is the exit code. Errors that
    `explain` has no line for are raised.
    """
    try:
        result = command(argv)
    except (Exception, KeyboardInterrupt) as error:
        code, line = explain(error) if explain else verdict(error, argv)
        if not line:
            raise
        print(line, file=sys.stderr if code else sys.stdout)
        return code
    return result if isinstance(result, int) else 0


def verdict(error: BaseException, argv: list[str]) -> tuple[int, str]:
    """Returns (exit code, line to print) for an error; the line is empty where only a traceback helps."""
    if isinstance(error, UserError):
        return 2, f"error: {escape_unprintable(str(error))}"
    if isinstance(error, signals.Stopped) and error.number == signal.SIGTERM:
        return 0, f"{error}; {resume_hint('tpr_jax.main', argv)}"
    if isinstance(error, signals.Stopped):
        return INTERRUPTED[0], f"error: {error}: rerun the same command to resume"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError) and (line := describe_disk_limit(error)):
        return 2, f"error: {line}"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
        what = f"{error.filename or 'a file'}: {os.strerror(error.errno).lower()}"
        return 2, f"error: {what}: check that this account may use that disk or bucket"
    return 1, ""


def stopped_at(where: str, module: str, argv: Sequence[str]) -> str:
    """Returns what a command that executes runs says when it is stopped: where, and how to resume."""
    return f"stopped at {where}; {resume_hint(module, argv)}"


def early_ends(module: str, argv: Sequence[str]) -> dict[int, tuple[int, str]]:
    """Returns how a signal ends such a command before it has begun: signal -> (exit code, line)."""
    line = f"error: {stopped_at('its beginning', module, argv)}"
    return {signal.SIGTERM: (2, line), signal.SIGINT: (INTERRUPTED[0], line)}


def explain_stopped(error: BaseException) -> tuple[int, str]:
    """Returns what `verdict` does, for such a command, whose Stopped says itself how to resume."""
    if isinstance(error, signals.Stopped):
        return (INTERRUPTED[0] if error.number == signal.SIGINT else 2), f"error: {error}"
    return verdict(error, sys.argv)


def exit_on_signals(argv: list[str]) -> None:
    """Ends the process immediately on SIGTERM or SIGINT, until another handler is installed.

    It covers the seconds in which a command imports its modules and has nothing to save yet.
    """
    ending.exit_immediately(
        {signal.SIGTERM: (0, f"stopped; {resume_hint('tpr_jax.main', argv)}"), signal.SIGINT: INTERRUPTED}
    )


def silence_native_logs() -> None:
    """Hides the notices that XLA, TensorFlow and gRPC print from C++; their errors still come through."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def resume_hint(module: str, argv: Sequence[str]) -> str:
    """Returns the hint that shows the command to resume with."""
    return f"resume with: {shlex.join(['python', '-m', module, *argv[1:]])}"
