"""Plans the runs: the papers' recipes and ours on each benchmark, with several seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpr_jax.compare import runs as compare_runs
from tpr_jax.compare.runs import ComparisonRun
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.utils.checksums import json_digest

DEFAULT_METHODS = ("zero_shot", "dm_adapter", "up_person", "cskt", "tpr_peft")
# One epoch instead of sixty; a later --config.num_epochs on the command line takes precedence.
QUICK_SETTINGS = ("--config.num_epochs=1",)
# Keys that may differ from the recipe without making a result incomparable: they say where and how it is
# computed. The backbone is compared by its size and its hash.
NEUTRAL = frozenset(
    {
        "seed",
        "dtype",
        "eval_batch_size",
        "backbone",
        "backbone_act",
        "backbone_heads",
        "backbone_mean",
        "backbone_std",
    }
    | {*config_lib.FREE_ON_RESUME}
    - {"total_steps", "eval_every", "eval_test_each_time", "source", "on_bad_image", "on_leak"}
)


@dataclass(frozen=True)
class Recipe:
    """A method on a benchmark, with its runs.

    Attributes:
      method: the name of the config.
      dataset: the benchmark.
      runs: one run for each seed.
      changed: the keys in which its config differs from the paper's recipe, see NEUTRAL.
      sha256: the hash of the config without the keys of NEUTRAL.
    """

    method: str
    dataset: str
    runs: tuple[ComparisonRun, ...]
    changed: tuple[str, ...]
    sha256: str


def plan(
    methods: Sequence[str], data: Mapping[str, str], seeds: int, workdir: Path, settings: Sequence[str]
) -> list[Recipe]:
    """Returns the recipes: all methods on the first benchmark, then all on the second, and so on.

    Args:
      methods: names of configs.
      data: the folder of each benchmark.
      seeds: the number of seeds; a method that trains nothing has one run.
      workdir: the folder of the runs.
      settings: `--config.KEY=VALUE` flags of every run.

    Raises:
      UserError: a setting cannot be used, or a folder holds another run.
    """
    recipes = []
    for dataset, folder in data.items():
        for method in methods:
            config_path = f"configs/{method}.py:{dataset}"
            number = 1 if method == "zero_shot" else seeds
            flags = [f"--config.data_dir={folder}", *settings]
            runs = tuple(compare_runs.plan([config_path], number, workdir, flags))
            plain = parse_flags(["main", "--config", config_path, "--workdir", str(workdir)])[0]
            changed = changed_keys(runs[0].config, config_lib.to_plain(plain))
            recipes.append(Recipe(method, dataset, runs, changed, json_digest(comparable(runs[0].config))))
    return recipes


def in_order(recipes: Sequence[Recipe]) -> list[ComparisonRun]:
    """Returns all runs in the order of execution: the first seed of each recipe, then the second ones."""
    return sorted((run for recipe in recipes for run in recipe.runs), key=lambda run: run.seed)


def comparable(config: Mapping) -> dict:
    """Returns a config without the keys that do not make a result incomparable."""
    return {key: value for key, value in config.items() if key not in NEUTRAL}


def changed_keys(config: Mapping, recipe: Mapping) -> tuple[str, ...]:
    """Returns the keys in which a config differs from a recipe, inner ones joined by dots."""
    mine, theirs = (_flat(comparable(values)) for values in (config, recipe))
    return tuple(key for key in dict.fromkeys((*theirs, *mine)) if mine.get(key) != theirs.get(key))


def _flat(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
