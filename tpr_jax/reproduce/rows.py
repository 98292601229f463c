"""One row of a reproduction: a method on a benchmark, as published and as measured here."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpr_jax.compare import outcome
from tpr_jax.compare.runs import ComparisonRun
from tpr_jax.compare.spread import Spread, spread
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.reproduce import published
from tpr_jax.reproduce.estimate import command_line
from tpr_jax.reproduce.plan import Recipe

DIRECTION = "t2i"  # the papers report text queries
METRIC = "R1"  # the verdict is about it
TOLERANCE = 1.0  # points
# Which state of a run a score is of. The papers report the first one.
PROTOCOLS = {
    "best_on_test": "best epoch on test",
    "best_on_val": "best epoch on val",
    "final": "last epoch",
    "untrained": "not trained",
}
NOT_RUN = "not yet run"
WITHIN = "within 1 point"
BEYOND = "beyond 1 point"
NOT_COMPARABLE = "not comparable"
NOT_PUBLISHED = "none published"
CLIP_PARAMS = 149_617_664  # of ViT-B/16 at 384 x 128


@dataclass(frozen=True)
class Row:
    """A method on a benchmark.

    Attributes:
      method: the name of the config.
      dataset: the benchmark.
      published: the published scores by metric, in percent; empty if there are none.
      source: where they are published; empty if nowhere.
      protocol: the key of PROTOCOLS whose scores are compared with them.
      seeds: the number of runs.
      done: the number of complete runs.
      failed: the number of failed runs.
      ours: the scores of the complete runs, protocol -> metric -> spread.
      difference: ours minus published by metric, in points; empty without a complete run.
      verdict: NOT_RUN, WITHIN, BEYOND, NOT_COMPARABLE or NOT_PUBLISHED.
      reason: why the result is not comparable; empty if it is.
      hours: the hours of the complete runs together, None if unknown.
      environments: the machines of the runs, as `perf.host.describe` returns them.
      weights_sha256: the hashes of the backbones that the runs were trained on.
      recipe_sha256: the hash of the config, without keys that do not make a result incomparable.
      commands: the command that repeats each run.
    """

    method: str
    dataset: str
    published: dict[str, float]
    source: str
    protocol: str
    seeds: int
    done: int
    failed: int
    ours: dict[str, dict[str, Spread]]
    difference: dict[str, float]
    verdict: str
    reason: str
    hours: float | None
    environments: list[dict]
    weights_sha256: list[str]
    recipe_sha256: str
    commands: list[str]

    @property
    def score(self) -> Spread | None:
        """Our score by the papers' protocol and metric, None without a complete run."""
        return self.ours.get(self.protocol, {}).get(METRIC)


def make_row(recipe: Recipe, subset: str, quick: bool, weights_sha256: str | None) -> Row:
    """Builds the row of a recipe from the files of its runs.

    Args:
      recipe: the recipe.
      subset: how the copy of the benchmark differs from the official sizes; empty if it does not.
      quick: whether the runs are those of --quick.
      weights_sha256: the hash of the backbone of runs that save no model, as an evaluation; None if unknown.
    """
    reference = published.find(recipe.method, recipe.dataset)
    expected = reference.scores if reference else {}
    statuses = [outcome.read_outcome(run).status for run in recipe.runs]
    done = [run for run, status in zip(recipe.runs, statuses, strict=True) if status == "done"]
    results = [outcome.read_results(run) for run in done]
    ours = {
        protocol: spreads
        for protocol in PROTOCOLS
        if (spreads := summarize([scores_of(result, protocol) for result in results]))
    }
    protocol = "best_on_test" if recipe.runs[0].mode == "train" else "untrained"
    scores = ours.get(protocol, {})
    difference = {key: scores[key].mean - value for key, value in expected.items() if key in scores}
    reason = why_not_comparable(
        quick,
        recipe.changed,
        subset or any(map(was_on_subset, results)),
        [backbone_params(recipe.method, result) for result in results],
    )
    hours = [result["seconds"] / 3600 for result in results if "seconds" in result]
    return Row(
        method=recipe.method,
        dataset=recipe.dataset,
        published=expected,
        source=reference.paper if reference else "",
        protocol=protocol,
        seeds=len(recipe.runs),
        done=len(done),
        failed=statuses.count("failed"),
        ours=ours,
        difference=difference,
        verdict=decide(difference.get(METRIC), reason) if reference or not scores else NOT_PUBLISHED,
        reason=reason,
        hours=sum(hours) if hours else None,
        environments=distinct(result["environment"] for result in results if "environment" in result),
        weights_sha256=distinct(hash_ for run in done if (hash_ := trained_on(run.folder) or weights_sha256)),
        recipe_sha256=recipe.sha256,
        commands=[command_line(run) for run in recipe.runs],
    )


def scores_of(result: Mapping, protocol: str) -> dict[str, float] | None:
    """Returns the scores of a run by one protocol, from its results.json or eval.json; None without any."""
    is_evaluation = "final" not in result  # its scores are at the top
    section = result if is_evaluation and protocol == "untrained" else result.get(protocol)
    return ((section or {}).get("test") or {}).get(DIRECTION)


def summarize(scores: Sequence[Mapping[str, float] | None]) -> dict[str, Spread] | None:
    """Returns the spread of each metric over the seeds; None unless every seed has scores."""
    known = [values for values in scores if values is not None]
    if not known or len(known) < len(scores):
        return None
    return {key: spread([values[key] for values in known]) for key in METRIC_KEYS}


def decide(difference: float | None, reason: str) -> str:
    """Returns the verdict on a difference from the published score.

    Args:
      difference: ours minus published, in points; None before the first run is complete. It counts as
        printed, with two digits.
      reason: why it is not comparable; empty if it is.
    """
    if difference is None:
        return NOT_RUN
    if reason:
        return NOT_COMPARABLE
    return WITHIN if abs(round(difference, 2)) <= TOLERANCE else BEYOND


def why_not_comparable(
    quick: bool, changed: Sequence[str], subset: str | bool, backbones: Iterable[int | None]
) -> str:
    """Returns why a result cannot be compared with the published one; empty if it can.

    Args:
      quick: whether the runs are those of --quick.
      changed: the keys that differ from the recipe.
      subset: how the splits differ from the official sizes, or whether they do.
      backbones: the number of parameters of each run's backbone, None if unknown.
    """
    reasons = ["a short run (--quick)"] if quick else []
    if changed and not (quick and set(changed) == {"num_epochs"}):
        reasons.append(f"other settings than the recipe's ({', '.join(changed)})")
    if subset:
        reasons.append("a subset of the benchmark")
    if any(params not in (None, CLIP_PARAMS) for params in backbones):
        reasons.append("another backbone than CLIP ViT-B/16")
    return "; ".join(reasons)


def was_on_subset(result: Mapping) -> bool:
    """Returns whether a run had other splits than the official ones, or left out images of test."""
    return bool((result.get("data") or {}).get("subset") or (result.get("skipped") or {}).get("test"))


def backbone_params(method: str, result: Mapping) -> int | None:
    """Returns the number of parameters of a run's backbone; None if it cannot be told from the results."""
    if params := (result.get("backbone") or {}).get("params"):
        return params
    total, trainable = result.get("total_params"), result.get("trainable_params")
    # Results of earlier versions: IRRA's heads depend on the identities, and our own recipe trains weights of
    # the backbone too.
    if total is None or trainable is None or method in ("irra", *published.OWN):
        return None
    return total if method == "full_finetune" else total - trainable


def trained_on(folder: Path) -> str | None:
    """Returns the hash of the backbone that a run's saved adapter was trained on; None without any."""
    try:
        saved = json.loads((folder / "model" / "config.json").read_text())
        return saved["backbone"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def distinct(values: Iterable) -> list:
    """Returns the different values, in the order of their first occurrence."""
    found = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def finished_models(recipes: Sequence[Recipe]) -> list[tuple[Recipe, ComparisonRun]]:
    """Returns the complete runs that trained a model, each with its recipe."""
    return [
        (recipe, run)
        for recipe in recipes
        for run in recipe.runs
        if run.mode == "train" and outcome.is_complete(run)
    ]
