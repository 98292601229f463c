"""Errors of a command line are one line, and `~` is the home directory in every path."""

import argparse
import ast
import importlib
import importlib.util
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests import search_galleries, test_docs_commands
from tests.conftest import ROOT
from tpr_jax import __main__ as command
from tpr_jax.cli import parser as arguments
from tpr_jax.cli.parser import Parser
from tpr_jax.compare import __main__ as compare
from tpr_jax.config.flags import parse_command
from tpr_jax.cross import __main__ as cross
from tpr_jax.errors import UserError
from tpr_jax.search import __main__ as search


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
    *("--texts", "--workdir", "configs", "models", "photos"),
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


def test_a_path_is_not_empty():
    parser = Parser(prog="python -m tpr_jax.some")
    parser.add_argument("photos", type=arguments.path, metavar="PHOTOS")
    parser.add_argument("--out", type=arguments.folder)
    parser.add_argument("--data_dir", type=arguments.path, default="")
    assert vars(parser.parse_args(["p"])) == {"photos": "p", "out": None, "data_dir": ""}
    for words, told in [(["p", "--out", " "], "--out: the value ' '"), ([""], "PHOTOS: the value ''")]:
        with pytest.raises(
            UserError, match=f"^argument {told} is empty: give a path or a name; see python -m"
        ):
            parser.parse_args(words)


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


# Options whose help says by itself what is done without them, or that add something when they are given.
OPTIONAL = {
    *(
        "--image",
        "--where",
        "--group",
        "--exclude",
        "--not",
        "--right",
        "--wrong",
        "--yes",
        "--no",
        "--unknown",
        "--key",
        "--post",
        "--set",
    ),
    *("--allow_host", "--photos", "--text", "--split", "--check", "--with"),
}
REQUIRED = "which is required"  # in the help of options that the command checks itself
INTERNAL = re.compile(r"`|\b(?!configs/)\w+/\w+\.py\b|__|docstring|[Ii]nternal|Raises|jit|NumPy|XLA")


def modules_with_help() -> list[str]:
    """Returns the modules that a user can start, found by their last lines, but for the list of them."""
    package = Path(arguments.__file__).parents[1]
    found = []
    for file in sorted(package.rglob("*.py")):
        if '\nif __name__ == "__main__":\n' in file.read_text(encoding="utf-8"):
            parts = file.relative_to(package.parent).with_suffix("").parts
            found.append(".".join(parts).removesuffix(".__main__"))
    return [
        name for name in found if name not in ("tpr_jax", "tpr_jax.bench.worker", "tpr_jax.reproduce.measure")
    ]


MODULES = modules_with_help()


def parsers_of(module: str, monkeypatch) -> list[arguments.Parser]:
    """Returns the parser that prints the help of a command, and those of its subcommands."""

    def shown(parser, file=None):
        printed.append(parser)
        raise SystemExit(0)

    printed: list = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", shown)
    found = importlib.import_module(
        module
        if importlib.util.find_spec(module).origin.endswith(f"{module.rpartition('.')[2]}.py")
        else f"{module}.__main__"
    )
    with pytest.raises(SystemExit):
        found.run(["--help"] if module == "tpr_jax.search" else [module, "--help"])
    for action in printed[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            printed += action.choices.values()
    return printed


def test_all_commands_are_looked_at():
    named = {module for module, _, _ in command.COMMANDS.values() if module}
    assert named <= set(MODULES) and len(MODULES) >= 19


@pytest.mark.parametrize("module", MODULES)
def test_help_has_one_form(module, monkeypatch):
    """One sentence, an example or more, and every argument with its default; nothing about the code."""
    for parser in parsers_of(module, monkeypatch):
        sentence, blank, *examples = parser.description.split("\n")
        assert re.fullmatch(r"[A-Z][a-z]+s [^.]+\.", sentence) and len(sentence) < 120 and blank == ""
        assert examples == [f"    {line}" for line in parser.examples] != []
        assert all(line.startswith(parser.prog) for line in parser.examples)
        assert max(map(len, examples)) <= 110
        assert not INTERNAL.search(parser.format_help()), INTERNAL.search(parser.format_help())
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                continue
            if action.help == argparse.SUPPRESS:
                continue
            text = " ".join(parser._get_formatter()._expand_help(action).split())
            assert text, (module, action)
            if not action.option_strings or action.nargs == 0 or action.required or REQUIRED in text:
                continue
            if not OPTIONAL & set(action.option_strings):
                assert "default" in text, (parser.prog, action.option_strings, text)
                if action.default is not None:
                    assert str(action.default) in text, (parser.prog, action.option_strings, text)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", MODULES)
def test_examples_in_the_help_can_be_parsed(module, tmp_path):
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        lines += [line for parser in parsers_of(module, patch) for line in parser.examples]
    for line in lines:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(test_docs_commands.Parsed):
            patch.chdir(ROOT)
            name, words = test_docs_commands.our_command(shlex.split(line.partition(" >> ")[0]))
            test_docs_commands.parse(name, words, patch, tmp_path)


@pytest.mark.parametrize(
    "word",
    [
        *("--workdir=w", "--mode=eval", "--coordinator=a:1", "--peer_timeout=3", "--num_processes=1"),
        *(
            "--process_id=0",
            "--compilation_cache",
            "--nocompilation_cache",
            "--initial",
            "--noinitial",
            "--rerank=all",
            "--vectors=64",
        ),
    ],
)
def test_the_help_of_main_has_its_flags(word, monkeypatch):
    (parser,) = parsers_of("tpr_jax.main", monkeypatch)
    assert parser.parse_args([word])
    with pytest.raises(UserError, match="--config is missing"):
        parse_command(["main", word])


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
