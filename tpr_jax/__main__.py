"""The commands of an installed tpr_jax under one name.

    tpr-jax train --config configs/NAME.py[:DATASET] --workdir DIR    as python -m tpr_jax.main
    tpr-jax COMMAND --help                                            what a command takes

`tpr-jax configs` prints the folder of the configs that come along; `configs/NAME.py` is found there where
the working folder has no such file.
"""

import importlib.util
import runpy
import sys

from tpr_jax.utils.streams import print_any_text, quiet_when_closed

# Command -> (what `python -m` runs, what is put before the arguments, what it is for).
COMMANDS = {
    "train": ("tpr_jax.main", ["--mode", "train"], "adapt CLIP as a config says"),
    "eval": ("tpr_jax.main", ["--mode", "eval"], "score the best checkpoint of a run again"),
    "compare": ("tpr_jax.compare", [], "several configs, several seeds, one table"),
    "cross": ("tpr_jax.cross", [], "trained on one data set, tested on all"),
    "search": ("tpr_jax.search", [], "find own photos in words: index, query, serve, export"),
    "visualize": ("tpr_jax.visualize", [], "look inside: what was found, experts, attention"),
    "export": ("tpr_jax.export", [], "both encoders for use without this package"),
    "data-check": ("tpr_jax.data.check", [], "is this copy of a data set whole?"),
    "mini-pedes": ("tpr_jax.data.mini_pedes", [], "render more people"),
    "aot": ("tpr_jax.aot", [], "compile for a TPU slice that is not here"),
    "bench": ("tpr_jax.bench", [], "speed as shares of this machine's best"),
    "configs": (None, [], "the folder of the configs that come along"),
}


def main() -> None:
    """Runs the command in sys.argv as `python -m` would; exits with 2 where there is no such command."""
    print_any_text()
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        there = {key: what for key, (module, _, what) in COMMANDS.items() if not module or _exists(module)}
        with quiet_when_closed():
            print(__doc__.strip(), "", *(f"    {key:<11} {what}" for key, what in there.items()), sep="\n")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    if name == "--version":
        from tpr_jax import __version__

        print(f"tpr-jax {__version__}")
        return
    if name not in COMMANDS:
        _refuse(f"command '{name}' is unknown: known are {', '.join(COMMANDS)}")
    module, first, _ = COMMANDS[name]
    if module is None:
        from tpr_jax.config import bundled as bundled_configs

        print(bundled_configs.folder())
        return
    if not _exists(module):
        _refuse(f"command '{name}' is not part of this version: it has no {module}")
    sys.argv[1:] = [*first, *rest] if rest else []  # alone, a command says how it is used
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _exists(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return importlib.util.find_spec(f"{module}.__main__") is not None  # what `python -m` runs of a package


def _refuse(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
