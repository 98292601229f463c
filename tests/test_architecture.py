"""The folders of the package: allowed imports, and imports without side effects."""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

# The folders and modules directly below tpr_jax/, called subpackages here, and tools/. Each imports from the
# layers below its own.
LAYERS = (
    ("visualize", "reproduce", "cross", "bench", "adapt"),
    ("search", "compare", "aot", "export", "import_checkpoint", "shrink", "main", "__main__", "tools"),
    ("train",),
    ("model", "weights", "report"),
    ("config", "metrics", "footage"),
    ("data", "perf"),
    ("models", "distributed"),
    ("utils", "optim"),
    ("losses", "errors"),
)
RANK = {room: i for i, layer in enumerate(LAYERS) for room in layer}
# `cli` is outside the layers: commands import it, and it imports only these.
CLI_IMPORTS = {"utils", "errors"}
# Commands that are not called `__main__`.
COMMANDS = {"tpr_jax.main", "tpr_jax.data.check", "tpr_jax.aot.table", "tpr_jax.aot.backbones"}
COMMANDS |= {"tpr_jax.reproduce.measure"}
COMMANDS |= {"tools.build_clip_mini", "tools.score_hard", "tools.set_address"}
COMMANDS |= {
    f"tpr_jax.bench.{name}"
    for name in ("feedback", "growth", "input", "profile", "ranking", "rerank", "serve")
}

# Imports between subpackages of one layer; any other is an error.
WITHIN_A_LAYER = {
    ("model", "weights"): "the public model class loads, saves and merges weights",
    ("data", "perf"): "decoded images are given back to the operating system by perf.allocator",
    ("optim", "utils"): "the learning rates of parameter groups go by path in the tree",
    ("losses", "errors"): "arrays of the wrong shape are an ArgumentError",
}
# The only import from a higher layer: `weights.reference.load` is a public path and returns a Model.
UPWARD = {("tpr_jax.weights.reference", "tpr_jax.model")}


class Import(NamedTuple):
    source: str  # module
    target: str  # module
    lazy: bool  # within a function


def modules() -> dict[str, Path]:
    """Returns modules of the package and tools/, dotted name -> file; a package has its folder's name."""
    found = {}
    for path in sorted(path for folder in ("tpr_jax", "tools") for path in (ROOT / folder).rglob("*.py")):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def subpackage(module: str) -> str:
    """Returns the subpackage of a module, "" for the package itself."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] if top == "tpr_jax" else top


def imported_names(tree: ast.AST, in_function: bool = False) -> Iterator[tuple[str, str | None, bool]]:
    """Yields (module, name or None, whether within a function) of each import, at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # never runs
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name, in_function) for alias in node.names)
        yield from imported_names(
            node, in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )


def package_imports() -> list[Import]:
    """Returns every import of one of these modules by another."""
    files, found = modules(), set()
    for source, path in files.items():
        for module, name, lazy in imported_names(ast.parse(path.read_text())):
            target = f"{module}.{name}" if f"{module}.{name}" in files else module
            if target in files and target != source:
                found.add(Import(source, target, lazy))
    return sorted(found)


IMPORTS = package_imports()


def broken_rule(source: str, target: str) -> str | None:
    """Returns the rule that an import breaks, None for none."""
    above, below = subpackage(source), subpackage(target)
    if (source, target) in UPWARD:
        return None
    if target == "tpr_jax.main":
        return "main is a command: nobody imports it"
    if above == below or not below or (not above and source == "tpr_jax"):
        return None  # the package's own __init__ only forwards public names
    if below == "cli":
        is_command = source.endswith((".__main__", ".arguments")) or source in COMMANDS
        return None if is_command else "only commands and their arguments import cli"
    if above == "cli":
        return None if below in CLI_IMPORTS else f"cli imports only {sorted(CLI_IMPORTS)}"
    if RANK[above] > RANK[below]:
        return f"{above} is in a layer below {below}"
    if RANK[above] == RANK[below] and (above, below) not in WITHIN_A_LAYER:
        return f"{above} and {below} are in one layer"
    return None


BROKEN = {
    (source, target): rule
    for source, target, _ in IMPORTS
    if (rule := broken_rule(source, target)) is not None
}


def test_every_subpackage_has_a_layer():
    assert {subpackage(module) for module in modules()} - {"", "cli"} <= set(RANK)
    assert set(RANK) <= {subpackage(module) for module in modules()}, "a layer names a missing subpackage"


def test_each_listed_command_is_one():
    assert [one for one in COMMANDS if '__name__ == "__main__"' not in modules()[one].read_text()] == []


def test_imports_run_down():
    assert BROKEN == {}


def test_the_upward_import_is_lazy():
    for pair in UPWARD:
        assert {one.lazy for one in IMPORTS if (one.source, one.target) == pair} == {True}


@pytest.mark.parametrize("pair", WITHIN_A_LAYER, ids=" -> ".join)
def test_an_import_within_a_layer_is_still_needed(pair):
    assert any((subpackage(one.source), subpackage(one.target)) == pair for one in IMPORTS), (
        "remove this entry"
    )


def find_cycle(imports: dict[str, set[str]]) -> list[str] | None:
    """Returns the nodes of one cycle in order, None if there is none."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return path[path.index(node) :]
        if node in finished:
            return None
        for target in sorted(imports.get(node, ())):
            if cycle := visit(target, [*path, node]):
                return cycle
        finished.add(node)
        return None

    return next((cycle for node in sorted(imports) if (cycle := visit(node, []))), None)


def test_finds_a_cycle():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) is None


def test_no_cycle_between_subpackages():
    imports = defaultdict(set)
    for source, target, _ in IMPORTS:
        above, below = subpackage(source), subpackage(target)
        if above and below and above != below and (source, target) not in UPWARD:
            imports[above].add(below)
    assert find_cycle(imports) is None


def test_no_cycle_between_modules():
    """Counts imports within functions too, which hide a cycle without breaking it."""
    imports = defaultdict(set)
    for source, target, _ in IMPORTS:
        if source != "tpr_jax" and (source, target) not in UPWARD:  # tpr_jax only forwards public names
            imports[source].add(target)
    assert find_cycle(imports) is None


# Runs in a new process. Imports other packages first, which may change anything; then marks whatever an
# import could change, and imports the package's own modules one by one.
IMPORT_EACH = """
import importlib, json, logging, os, signal, sys, threading, warnings

request = json.load(sys.stdin)
for module, name in request["others"]:
    try:
        imported = importlib.import_module(module)
        if name and not hasattr(imported, name):
            importlib.import_module(f"{module}.{name}")
    except ImportError:
        pass  # optional, or of another platform

import jax

MARK = 7
logging.root.setLevel(MARK)
for logger in logging.root.manager.loggerDict.values():
    if isinstance(logger, logging.Logger):
        logger.setLevel(MARK)
warnings.resetwarnings()


def state():
    loggers = {"root": logging.root, **logging.root.manager.loggerDict}
    levels = {name: one.level for name, one in loggers.items() if isinstance(one, logging.Logger)}
    return {
        "levels of loggers": {name: level for name, level in levels.items() if level not in (0, MARK)},
        "handlers of loggers": [str(handler) for handler in logging.root.handlers],
        "warning filters": list(map(str, warnings.filters)),
        "hooks": [str(hook) for hook in (sys.unraisablehook, sys.excepthook, threading.excepthook)],
        "signal handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "jax.config": {key: str(value) for key, value in jax.config.values.items()},
        "sys.path": list(sys.path),
        "streams": [id(sys.stdout), id(sys.stderr)],
        "os.environ": dict(os.environ),
    }


changes = []
for module in request["modules"]:
    before = state()
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "tpr_jax":
            raise
    after = state()
    for key in after:
        if before[key] != after[key] and key == "os.environ":
            names = [name for name in after[key] if after[key][name] != before[key].get(name)]
            changes += [(module, name) for name in names + [*(before[key].keys() - after[key].keys())]]
        elif before[key] != after[key]:
            changes.append((module, key))
print(json.dumps(changes))
"""
# `tfds build` runs these files by their path, without the package on it.
RUN_BY_PATH = "tpr_jax.data.tfds_builders."
# (module, call at its top level) -> why, besides `defvjp`, which completes a definition.
CALLS = {
    ("tpr_jax.bench.__main__", "os.environ.setdefault"): "JAX reads the variable when it is first used",
    ("tpr_jax.data.pipeline", "tensorflow"): "hides the accelerators from TensorFlow before JAX uses them",
}


@pytest.fixture(scope="module")
def changes_by_import() -> set[tuple[str, str]]:
    others = set()
    for path in modules().values():
        for module, name, lazy in imported_names(ast.parse(path.read_text())):
            if not lazy and module.partition(".")[0] not in ("tpr_jax", "__future__"):
                others.add((module, name))
    request = json.dumps({"others": sorted(others, key=str), "modules": sorted(modules())})
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH],
        input=request,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {tuple(change) for change in json.loads(done.stdout)}


def is_documented(module: str, change: str) -> bool:
    """Returns whether a module may make this change when it is imported."""
    sets_variable = (module, change) == ("tpr_jax.bench.__main__", "XLA_PYTHON_CLIENT_PREALLOCATE")
    return sets_variable or (module.startswith(RUN_BY_PATH) and change == "sys.path")


def test_importing_changes_nothing_outside_the_module(changes_by_import):
    assert {change for change in changes_by_import if not is_documented(*change)} == set()


def test_importing_calls_nothing_for_its_effect():
    found = set()
    for module, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                name = ast.unparse(node.value.func)
                if not name.endswith(".defvjp") and not module.startswith(RUN_BY_PATH):
                    found.add((module, name))
    assert found == set(CALLS)


def test_no_function_takes_more_than_six_positional_arguments():
    too_many = {}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [one.arg for one in node.args.posonlyargs + node.args.args]
                if len(names) - (names[:1] in (["self"], ["cls"])) > 6:
                    too_many[f"{module}.{node.name}"] = names
    assert too_many == {}


def test_no_call_passes_more_than_six_positional_arguments():
    """The fields of a class are arguments too, which no `def` shows."""
    found = set()
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                bound = name.endswith("partial")  # its first argument is the function
                if len(node.args) - bound > 6:
                    found.add((module, name))
    assert found == set()
