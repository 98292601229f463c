"""The commands of tpr_jax under one name.

    tpr-jax train --config configs/NAME.py[:DATASET] --workdir DIR    same as python -m tpr_jax.main
    tpr-jax COMMAND --help                                            the arguments of a command

`tpr-jax configs` prints the directory of the bundled configs; `configs/NAME.py` is also found there if the
working directory has no such file.
"""

import importlib.util
import runpy
import sys
from typing import NamedTuple

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.errors import UserError
from tpr_jax.utils.suggest import nearest


class Command(NamedTuple):
    """The module that `python -m` runs (None: handled here), its first arguments, and one line of help."""

    module: str | None
    prefix: tuple[str, ...]
    summary: str


COMMANDS = {
    "train": Command("tpr_jax.main", ("--mode", "train"), "adapt CLIP as a config describes"),
    "eval": Command("tpr_jax.main", ("--mode", "eval"), "evaluate a run's best checkpoint again"),
    "compare": Command("tpr_jax.compare", (), "several configs, several seeds, one table"),
    "cross": Command("tpr_jax.cross", (), "test models on other data sets than their own"),
    "reproduce": Command("tpr_jax.reproduce", (), "train the papers' recipes and compare with the papers"),
    "adapt": Command("tpr_jax.adapt", (), "adapt a model to your own photos without labels"),
    "search": Command("tpr_jax.search", (), "search your photos in words: index, query, serve, export"),
    "visualize": Command("tpr_jax.visualize", (), "show retrieved images, experts and attention"),
    "export": Command("tpr_jax.export", (), "export both encoders for use without this package"),
    "shrink": Command("tpr_jax.shrink", (), "a smaller CLIP with some of a model's blocks, as a student"),
    "import": Command("tpr_jax.import_checkpoint", (), "convert a checkpoint of another program"),
    "data-check": Command("tpr_jax.data.check", (), "check that a copy of a data set is complete"),
    "mini-pedes": Command("tpr_jax.data.mini_pedes", (), "render a synthetic data set"),
    "aot": Command("tpr_jax.aot", (), "compile for a TPU slice without having one"),
    "bench": Command("tpr_jax.bench", (), "measure speed relative to this machine's peak"),
    "configs": Command(None, (), "print the directory of the bundled configs"),
}


def main() -> None:
    """Runs the command in sys.argv as `python -m` would; exits with 2 if it is unknown."""
    explain_and_exit(_run, sys.argv, raising=())  # the command itself decides what Ctrl-C does


def _run(argv: list[str]) -> None:
    name, *rest = argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        _print_help()
        raise SystemExit(0 if len(argv) > 1 else 2)
    if name == "--version":
        from tpr_jax import __version__

        print(f"tpr-jax {__version__}")
        return
    if name not in COMMANDS:
        raise UserError(f"command '{name}' is unknown: {nearest(name, COMMANDS)}")
    module, prefix, _ = COMMANDS[name]
    if module is None:
        from tpr_jax.config import bundled

        print(bundled.folder())
        return
    if not _exists(module):
        raise UserError(f"command '{name}' is not part of this version: it has no {module}")
    sys.argv[1:] = [*prefix, *rest] if rest else []  # without arguments, a command prints its usage
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _print_help() -> None:
    print("usage: tpr-jax COMMAND ...\n\nRuns a command of tpr_jax, as python -m tpr_jax.COMMAND does.\n")
    print("    tpr-jax train --config configs/dm_adapter.py --workdir runs/demo")
    print("    tpr-jax search index PHOTOS --index DIR\n")
    print("commands (tpr-jax COMMAND --help lists the arguments):")
    for name, (module, _, summary) in COMMANDS.items():
        if module is None or _exists(module):
            print(f"    {name:<11} {summary}")


def _exists(module: str) -> bool:
    """Returns whether `python -m MODULE` finds something to run."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return importlib.util.find_spec(f"{module}.__main__") is not None


if __name__ == "__main__":
    main()
