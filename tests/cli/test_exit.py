"""How a command ends: exit codes, and one line for what a user can fix."""

import errno

import pytest

from tpr_jax.cli import exit as command_exit
from tpr_jax.errors import UserError
from tpr_jax.utils.signals import Stopped


def ending(error, explain=None):
    """Returns the exit code of a command that raises this error."""

    def command(argv):
        raise error

    return command_exit.exit_code(command, ["command"], explain)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x.json: not a file: give another"), 2, "error: x.json: not a file: give another\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; rerun the same command to resume"),
        (
            Stopped(2, "stopped at step 3"),
            130,
            "error: stopped at step 3: rerun the same command to resume\n",
        ),
        (OSError(errno.ENOSPC, "no space", "/d/x"), 2, "error: no space left on the disk of /d/x: free"),
        (PermissionError(errno.EACCES, "Permission denied", "/d/x"), 2, "error: /d/x: permission denied"),
    ],
)
def test_explains_an_error_in_one_line(error, code, line, capsys):
    assert ending(error) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1


def test_a_stopped_run_prints_how_to_resume_and_succeeds(capsys):
    assert ending(Stopped(15, "stopped at step 3")) == 0
    assert capsys.readouterr() == ("stopped at step 3; resume with: python -m tpr_jax.main\n", "")


def test_raises_a_bug():
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError())


def test_a_command_may_explain_its_own_errors(capsys):
    assert ending(KeyError("x"), lambda error: (7, f"error: {error}")) == 7
    assert capsys.readouterr().err == "error: 'x'\n"


def test_exits_with_the_code_of_the_command():
    command_exit.explain_and_exit(lambda argv: None, ["command"])
    with pytest.raises(SystemExit) as ended:
        command_exit.explain_and_exit(lambda argv: {}["x"], ["command"], lambda error: (3, "error: x"))
    assert ended.value.code == 3


def test_resume_hint_quotes_the_arguments():
    hint = command_exit.resume_hint("tpr_jax.compare", ["compare", "a b.py", "--seeds", "2"])
    assert hint == "resume with: python -m tpr_jax.compare 'a b.py' --seeds 2"


def test_escapes_control_characters_of_an_error():
    assert command_exit.verdict(UserError("a\nb\u200b\x1b.jpg: no such image"), []) == (
        2,
        "error: a\\nb\\u200b\\x1b.jpg: no such image",
    )
