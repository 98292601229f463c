"""Errors of a command line are one line, and `~` is the home directory in every path."""

import argparse
import ast
import os
import shutil
from pathlib import Path

import pytest

from tests import search_galleries
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.parser import Parser
from tpr_jax.compare import __main__ as compare
from tpr_jax.cross import __main__ as cross
from tpr_jax.errors import UserError
from tpr_jax.search import __main__ as search
from tpr_jax.search import arguments as search_arguments
from tpr_jax.visualize import __main__ as visualize


@pytest.mark.parametrize("line", ["--seed 1", "find --seed 1", "find --top_k x", "lose"])
def test_errors_name_the_help(line, capsys):
    parser = Parser(prog="python -m tpr_jax.some")
    find = parser.add_subparsers().add_parser("find")
    find.add_argument("--top_k", type=int)
    with pytest.raises(UserError, match=r"; see python -m tpr_jax\.some --help$"):
        parser.parse_args(line.split())
    assert capsys.readouterr() == ("", "")


PATHS = {
    *("--backbone", "--data_dir", "--image", "--index", "--manual_dir", "--model", "--out", "--photos"),
    *("--workdir", "configs", "models", "photos"),
}


def path_arguments():
    """Yields (file, argument, name of its `type`) for each argparse argument that is a path."""
    for file in sorted(Path(arguments.__file__).parents[1].rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or ast.unparse(call.func).split(".")[-1] not in (
                "add_argument",
                "add",
            ):
                continue
            first = call.args[0] if call.args else None
            name = ast.unparse(first) if isinstance(first, ast.Name) else getattr(first, "value", None)
            if name in PATHS or name == "source":
                kinds = [ast.unparse(word.value) for word in call.keywords if word.arg == "type"]
                yield file.name, name, kinds[0].split(".")[-1] if kinds else None


def test_every_path_argument_expands_a_tilde():
    found = list(path_arguments())
    assert len(found) >= 24 and {name for _, name, _ in found} >= PATHS
    assert [argument for argument in found if argument[2] not in ("path", "folder")] == []


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_expands_a_path(home):
    assert arguments.path("~/x") == f"{home}/x" and arguments.path("~") == home
    for other in ("x/~", "clip-mini", "openai/clip-vit-base-patch16", "gs://bucket/~/x", "/a", "", "./~"):
        assert arguments.path(other) == other
    assert arguments.folder("~/x") == Path(home, "x")


def test_compare_and_cross_expand_their_paths(tiny, home):
    configs, _, workdir, _, _ = compare.parse(["compare", "~/c.py:x", "--workdir=~/w"])
    assert (configs, workdir) == ([f"{home}/c.py:x"], Path(home, "w"))
    models, data, out = cross.parse(["cross", "~/m", "clip-mini", "--data", "cuhk_pedes=~/d", "--out=~/o"])
    assert (models, data, out) == ([f"{home}/m", "clip-mini"], {"cuhk_pedes": f"{home}/d"}, Path(home, "o"))


def test_search_expands_its_paths(tiny, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    search_galleries.photos(Path(home, "photos"), 2)
    shutil.copytree(tiny["clip"], f"{home}/clip")
    assert search.main(["index", "~/photos", "--index=~/i", "--model=~/clip"]) == 0
    assert search.main(["query", "--image=~/photos/000.png", "--index=~/i", "--model=~/clip"]) == 0
    assert search.main(["export", "--index=~/i", "--out=~/p.parquet"]) == 0
    assert sorted(os.listdir(home)) == ["clip", "i", "p.parquet", "photos"]
    assert "000.png" in capsys.readouterr().out


OPTIONAL = {
    "--image",
    "--where",
    "--group",
    "--exclude",
    "--not",
    "--right",
    "--wrong",
    "--key",
    "--post",
    "--allow_host",
    "--photos",
    "--text",
    "--model",
}


def options_of(parser: argparse.ArgumentParser):
    """Yields (parser, action) of each option of a parser and its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from options_of(sub)
        elif action.option_strings and action.dest != "help":
            yield parser, action


@pytest.mark.parametrize(
    "of_command", [search_arguments.parser(""), visualize.parser()], ids=lambda one: one.prog
)
def test_help_tells_the_default_of_each_option(of_command):
    for parser, action in options_of(of_command):
        text = " ".join(parser._get_formatter()._expand_help(action).split())
        takes_value = action.nargs != 0
        if takes_value and not action.required and not OPTIONAL & set(action.option_strings):
            assert "default" in text, (parser.prog, action.option_strings, text)
            if action.default is not None:
                assert str(action.default) in text, (parser.prog, action.option_strings, text)


def test_every_option_has_help():
    """Without a text, the help does not even show the default."""
    for file in sorted(Path(arguments.__file__).parents[1].rglob("*.py")):
        if file.parent.name in ("compare", "cross"):
            continue  # they print their docstring
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".add_argument"):
                name = getattr(call.args[0], "value", "")
                if isinstance(name, str) and name.startswith("--"):
                    assert "help" in {word.arg for word in call.keywords}, (file, name)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fnd", "'fnd' is unknown: did you mean 'find'?"),
        ("find --topk 3", "--topk is unknown: did you mean '--top_k'?"),
        ("find --topk=3", "--topk is unknown: did you mean '--top_k'?"),
        ("find --kind gren", "'gren' is unknown: did you mean 'green'?"),
        ("find --quite", "--quite is unknown: did you mean '--quiet'?"),
        ("find --zzzz", "--zzzz is unknown: choose from: --help, --top_k, --kind, --quiet"),
    ],
)
def test_suggests_the_nearest_word(line, told):
    top = Parser(prog="python -m tpr_jax.some")
    find = top.add_subparsers(dest="command", required=True).add_parser("find")
    find.add_argument("--top_k", type=int, required=True)  # a mistyped option is told before a missing one
    find.add_argument("--kind", choices=("green", "red"))
    find.add_argument("--quiet", action="store_true")
    with pytest.raises(UserError) as error:
        top.parse_args(line.split())
    assert told in str(error.value) and str(error.value).endswith("; see python -m tpr_jax.some --help")


def test_values_and_abbreviations_are_no_mistakes():
    parser = Parser(prog="python -m tpr_jax.some")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--top_k", type=int)
    assert parser.parse_args(["--top", "3", "-- a dash"]).top_k == 3
    assert parser.parse_args(["--", "--topk"]).text == "--topk"
    strict = Parser(prog="python -m tpr_jax.some", allow_abbrev=False)
    strict.add_argument("--top_k", type=int)
    with pytest.raises(UserError, match=r"--top is unknown: did you mean '--top_k'\?"):
        strict.parse_args(["--top", "3"])
