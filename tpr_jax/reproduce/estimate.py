"""Estimates how long the runs take on this machine, from a few measured steps of each recipe."""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tpr_jax.compare import outcome
from tpr_jax.compare import runs as compare_runs
from tpr_jax.compare.runs import ComparisonRun
from tpr_jax.data import datasets
from tpr_jax.errors import UserError
from tpr_jax.reproduce import child
from tpr_jax.reproduce.plan import Recipe
from tpr_jax.utils import markdown
from tpr_jax.utils.files import write_json

PROGRAM = (sys.executable, "-m", "tpr_jax.reproduce.measure")
FOLDER = "estimate"  # in the workdir
MEASURED = "measured.json"


@dataclass(frozen=True)
class Measurement:
    """What `measure` found out about one run of a recipe.

    Attributes:
      mode: "train" or "eval".
      steps: the steps of a run.
      step_seconds: the seconds of one.
      encoded_images: the images that a run encodes to score its states.
      image_seconds: the seconds to encode one, with its captions.
      startup_seconds: the seconds until the first step, and of the measurement itself.
      test_images: the images of the test split.
      environment: the machine, as `perf.host.describe` returns it.
      weights: `name`, `revision` and `sha256` of the backbone.
    """

    mode: str
    steps: int
    step_seconds: float
    encoded_images: int
    image_seconds: float
    startup_seconds: float
    test_images: int
    environment: dict
    weights: dict

    @property
    def run_seconds(self) -> float:
        """The seconds of one run. The ranking of the scores is left out, which takes seconds."""
        return (
            self.steps * self.step_seconds + self.encoded_images * self.image_seconds + self.startup_seconds
        )


@dataclass(frozen=True)
class Line:
    """One line of the estimate: what is left to do for a recipe."""

    what: str
    dataset: str
    runs: int
    step_seconds: float | None
    hours: float


def measure(
    recipe: Recipe, workdir: Path, asked_to_stop: Callable[[], bool], progress: str
) -> Measurement | None:
    """Measures a recipe in a process of its own, unless this machine has measured it before.

    Args:
      recipe: the recipe.
      workdir: keeps the measurement, below estimate/.
      asked_to_stop: when it returns true, the measurement is stopped.
      progress: which of the recipes this is, for the printed line.

    Returns:
      The measurement, None if it was stopped.

    Raises:
      UserError: the measurement failed.
    """
    run, path = recipe.runs[0], file_of(recipe, workdir)
    if (known := read(path, run)) is not None:
        return known
    folder = path.parent
    print(f"[{progress}] measuring a few steps of {run.name}", flush=True)
    flags = [str(folder) if word == str(run.folder) else word for word in run.flags]
    code, message = child.execute([*PROGRAM, *flags], folder, run, asked_to_stop)
    if code is None:
        return None
    if code == 0:
        try:
            write_json(path, {"config": run.config, "host": _host(), **json.loads(path.read_text())})
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}): rerun the command") from error
    measurement = read(path, run)
    if code or measurement is None:
        line = message.removeprefix("error: ")
        raise UserError(f"{run.name} cannot run here: {line} (see {folder / 'log.txt'})")
    return measurement


def file_of(recipe: Recipe, workdir: Path) -> Path:
    """Returns the file that keeps the measurement of a recipe."""
    return workdir / FOLDER / compare_runs.folder_name(recipe.runs[0].name) / MEASURED


def read(path: Path, run: ComparisonRun) -> Measurement | None:
    """Reads a measurement; None unless it is complete, and of this machine and this config."""
    try:
        found = json.loads(path.read_text())
        if found.get("host") != _host() or found.get("config") != run.config:
            return None
        return Measurement(**{field.name: found[field.name] for field in fields(Measurement)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _host() -> str:
    return platform.node()


def summarize(
    recipes: Sequence[Recipe], measured: Mapping[tuple[str, str], Measurement], *, with_cross: bool
) -> list[Line]:
    """Returns a line for each recipe with runs left to do, and one for the table across data sets.

    Args:
      recipes: the recipes.
      measured: the measurement of each (method, data set).
      with_cross: whether every trained model is also tested on every data set.
    """
    lines = []
    for recipe in recipes:
        found = measured[recipe.method, recipe.dataset]
        left = sum(not outcome.is_complete(run) for run in recipe.runs)
        if left:
            step = found.step_seconds if found.mode == "train" else None
            hours = left * found.run_seconds / 3600
            lines.append(Line(recipe.method, recipe.dataset, left, step, hours))
    if with_cross:
        lines.append(_cross_line(recipes, measured))
    return lines


def _cross_line(recipes: Sequence[Recipe], measured: Mapping[tuple[str, str], Measurement]) -> Line:
    """Returns the line of the table across data sets: each model encodes each test split."""
    tests = {recipe.dataset: measured[recipe.method, recipe.dataset].test_images for recipe in recipes}
    models = [recipe for recipe in recipes for run in recipe.runs if run.mode == "train"]
    seconds = sum(
        sum(tests.values()) * measured[recipe.method, recipe.dataset].image_seconds for recipe in models
    )
    return Line("across data sets", "", len(models) * len(tests), None, seconds / 3600)


def render(lines: Sequence[Line], environment: Mapping) -> str:
    """Renders the estimate as a table for a terminal, with the total in its last line."""
    rows = [["method", "data set", "runs", "s/step", "hours"]]
    for line in lines:
        step = "" if line.step_seconds is None else f"{line.step_seconds:.3g}"
        dataset = datasets.label(line.dataset) if line.dataset else "all"
        rows.append([line.what, dataset, str(line.runs), step, format_hours(line.hours)])
    table = "\n".join("  ".join(row).rstrip() for row in markdown.pad_columns(rows, "llrrr"))
    return f"{table}\n{total(lines, environment)}"


def total(lines: Sequence[Line], environment: Mapping) -> str:
    """Returns the line that says how long everything takes, and on what."""
    hours, number = sum(line.hours for line in lines), environment["devices"]
    device = f"{number} x {environment['device']}" if number > 1 else environment["device"]
    if environment["platform"] == "cpu":
        return f"in all {format_hours(hours)} hours on this CPU ({device}); an accelerator is far faster"
    kind = environment["platform"].upper()
    return f"in all {format_hours(hours * number)} {kind} hours: {format_hours(hours)} hours on {device}"


def format_hours(hours: float) -> str:
    """Formats hours: whole ones from ten on, else with one or two digits after the point."""
    if hours < 0.01:
        return "< 0.01"
    return f"{hours:,.0f}" if hours >= 9.95 else f"{hours:.1f}" if hours >= 0.95 else f"{hours:.2f}"


def command_line(run: ComparisonRun) -> str:
    """Returns the command that repeats a run."""
    return shlex.join(["python", "-m", "tpr_jax.main", *run.flags])
