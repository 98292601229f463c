"""Parses every command line in README and docs with the program that it calls."""

import argparse
import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

import tpr_jax
from tests.conftest import _environment, quick_environment
from tests.pages import PAGES, ROOT, blocks, calls, prose, read
from tpr_jax import __main__ as command
from tpr_jax.adapt import __main__ as adapt
from tpr_jax.compare import __main__ as compare
from tpr_jax.compare import runs as compare_runs
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.cross import __main__ as cross
from tpr_jax.errors import UserError
from tpr_jax.reproduce import __main__ as reproduce
from tpr_jax.search.query.where import matching

MODULE = re.compile(r"python -m (tpr_jax(?:\.\w+)*)")


class Parsed(BaseException):
    """Ends a program after it has parsed its command line. No handler of Exception catches it."""


def command_lines() -> list:
    """Returns the words of each line of a shell block, as test parameters."""
    params = []
    for page in PAGES:
        for block in blocks(page):
            if not block.skip_reason and block.language in ("", "sh"):
                params += [pytest.param(words, id=f"{page}:{line}") for line, words in calls(block)]
    return params


LINES = command_lines()


def our_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Returns (module, arguments) of a line that calls a program of this project."""
    if words[1:2] == ["-m"] and "python" in words[0] and words[2].startswith("tpr_jax"):
        return words[2], words[3:]
    if words[0] == "tpr-jax":
        module, first, _ = command.COMMANDS[words[1]]
        return module, [*first, *words[2:]]
    if words[0].startswith("--config."):
        return "tpr_jax.main", ["--config", "configs/dm_adapter.py", "--workdir", "w", *words]
    if "--config" in words:  # the arguments of a script in launch/
        return "tpr_jax.main", words[words.index("--config") :]
    if words[0].startswith("--where"):
        return "tpr_jax.search", ["query", "TEXT", "--index", "DIR", *words]
    return None


def parse(module: str, words: list[str], monkeypatch, tmp_path) -> None:
    """Parses a command line with its program and raises Parsed."""
    if module == "tpr_jax.main":
        parse_flags(["main", *words])
        raise Parsed
    if module == "tpr_jax.compare":
        configs, seeds, _, _, settings = compare.parse(["compare", *words])
        compare_runs.plan(configs, seeds, tmp_path, settings)
        raise Parsed
    if module == "tpr_jax.cross":  # it calls argparse differently
        cross.parse(["cross", *words])
        raise Parsed
    if module == "tpr_jax.adapt":  # its main module catches signals
        adapt.check(adapt.parser().parse_args(words))
        raise Parsed
    if module == "tpr_jax.reproduce":  # its main module catches signals
        reproduce.parse(["reproduce", *words])
        raise Parsed
    if module == "tpr_jax.aot":
        from tpr_jax.aot import __main__ as aot

        def raise_parsed(*_, **__):
            raise Parsed

        monkeypatch.setattr(aot, "compile_all", raise_parsed)
        aot.run(["aot", *words])
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [module, *words])
    runpy.run_module(module, run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("words", [line for line in LINES if our_command(line.values[0])])
def test_command_lines_are_valid(words, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    module, arguments = our_command(words)
    with pytest.raises(Parsed):
        parse(module, arguments, monkeypatch, tmp_path)


@pytest.mark.parametrize("wrong", ["--topk 3", "--text_queries", "--config.sed=1", "--top_k many"])
@pytest.mark.parametrize(
    "line", ["tpr_jax.search query x --index DIR", "tpr_jax.main --config configs/lora.py"]
)
def test_invalid_command_lines_are_rejected(wrong, line, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    module, *words = [*line.split(), *wrong.split()]
    with pytest.raises((SystemExit, UserError)):
        parse(module, words, monkeypatch, tmp_path)


def test_many_command_lines_are_found():
    modules = {command[0] for line in LINES if (command := our_command(line.values[0]))}
    assert {"tpr_jax.main", "tpr_jax.compare", "tpr_jax.cross", "tpr_jax.search", "tpr_jax.aot"} <= modules
    assert "tpr_jax.reproduce" in modules
    assert sum(bool(our_command(line.values[0])) for line in LINES) > 40


def test_every_call_of_a_module_is_parsed():
    """Except for printed output and blocks that are not run."""
    printed = {"next:", "error:"}
    for page in PAGES:
        for block in blocks(page):
            for line, words in calls(block):
                is_call = MODULE.search(" ".join(words)) or words[0] == "tpr-jax"
                if is_call and not block.skip_reason and words[0] not in printed:
                    assert our_command(words), f"{page}:{line}"


@pytest.mark.parametrize("page", PAGES)
def test_modules_in_sentences_exist(page):
    for module in MODULE.findall(prose(page)):
        assert importlib.util.find_spec(module), f"{page}: python -m {module}"
    for name in re.findall(r"`tpr-jax ([a-z][a-z-]*)", prose(page)):
        assert name in command.COMMANDS, f"{page}: tpr-jax {name}"


def known_keys() -> set[str]:
    """Returns the keys of all configs, including those of the example of a mixture."""
    keys = set()
    for path in (ROOT / "configs").glob("*.py"):
        config = parse_flags(["main", "--config", str(path), "--workdir", "w"])[0]
        keys |= set(config_lib.keys(config))
    return keys | {key.rpartition(".")[0] for key in keys}


def test_keys_in_sentences_exist():
    keys = known_keys()
    for page in PAGES:
        for no, key in re.findall(r"--(no)?config\.([a-z_][\w.]*\w)", read(page)):
            assert key in keys, f"{page}: --{no}config.{key}"
        for key in re.findall(r"`config\.([a-z_][\w.]*\w)`", prose(page)):
            assert key in keys or hasattr(config_lib, key), f"{page}: config.{key}"


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in LINES:
        words = line.values[0]
        if words[0] == "make":
            assert words[1] in targets, line.id
        if words[0].startswith(("launch/", ".ci/")):
            assert (ROOT / words[0]).is_file(), line.id


def test_where_conditions_are_valid():
    columns = {"camera": [3], "path": ["gate/1.jpg"], "time": [pa.scalar(0, pa.timestamp("s")).as_py()]}
    lines = [line for line in LINES if line.values[0][0] == "--where"]
    for line in lines:
        assert matching(pa.table(columns), line.values[0][1]).shape == (1,)
    assert len(lines) >= 2


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("curl", "needs a server"),
        ("gcloud", "needs a cloud"),
        ("pip", "installs packages"),
        ("pytest", "runs tests within tests"),
    ],
)
def test_commands_of_other_programs_are_not_checked(program, reason):
    """Lists them as skipped."""
    lines = [line.id for line in LINES if line.values[0][0] == program]
    pytest.skip(f"{program} ({reason}): {', '.join(lines) or 'none'}")


def test_pages_are_parsed(tmp_path, monkeypatch):
    """Parses a page with each kind of block."""
    from tests import pages

    (tmp_path / "page.md").write_text(
        "# A b\n\nText:\n\n    tool one \\\n        two  # why\n\n    three\n\nMore [x](y.md#a-b).\n\n"
        "<!-- not run: far away -->\n```python\nx = 1\n\ny = 2\n```\n\n```sh\nls\n```\n"
    )
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    indented, python, shell = blocks("page.md")
    assert [words for _, words in calls(indented)] == [["tool", "one", "two"], ["three"]]
    assert [line for line, _ in calls(indented)] == [5, 8]
    assert (python.language, python.code, python.skip_reason, python.line) == (
        "python",
        "x = 1\n\ny = 2",
        "far away",
        14,
    )
    assert (shell.language, shell.skip_reason) == ("sh", "")
    assert pages.links("page.md") == ["y.md#a-b"] and pages.anchors("page.md") == {"a-b"}
    shutil.rmtree(tmp_path)


def demo_words() -> list[str]:
    """Returns the command of `make demo`, as the Makefile has it."""
    recipe = re.search(r"^demo:.*\n\t\$\(RUN\) (.+)$", read("Makefile"), re.MULTILINE)
    return recipe[1].split()


def test_the_readme_shows_the_command_of_make_demo():
    shown = re.search(r"`make demo` runs\n\n    python (.+)\n", read("README.md"))
    assert shown[1].split() == demo_words()


@pytest.mark.slow
def test_the_demo_runs(tmp_path):
    words = demo_words()
    words[words.index("--workdir") + 1] = str(tmp_path / "demo")
    command = [sys.executable, *words, "--config.debug=True"]
    environment = _environment() | quick_environment()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    for start in ("zero-shot, test: R1 ", "dm_adapter on mini_pedes: ", "test, text to image, last epoch: "):
        assert any(line.startswith(start) for line in done.stdout.splitlines()), done.stdout
    assert (tmp_path / "demo" / "report.html").is_file() and (tmp_path / "demo" / "report.png").is_file()
    scores = json.loads((tmp_path / "demo" / "results.json").read_text())["final"]["test"]["t2i"]
    assert all(0 < scores[name] <= 100 for name in ("R1", "R5", "R10", "mAP", "mINP"))
    assert tpr_jax.from_pretrained(tmp_path / "demo" / "model").method.name == "dm_adapter"
