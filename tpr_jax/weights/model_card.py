"""Writes the model card, README.md beside a saved model: method, metrics, and how to load it."""

import dataclasses
import json
from collections.abc import Mapping

from tpr_jax.data import datasets
from tpr_jax.models.config import FAMILIES
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import Part
from tpr_jax.utils import markdown

# A file with this line is replaced by the next save.
MARK = (
    "<!-- Written by tpr_jax, and anew by each save into this folder; delete this line to keep your own. -->"
)
SCORES = ("R1", "R5", "R10", "mAP", "mINP")
RECIPE = ("image_size", "batch_size", "num_epochs", "dtype", "seed", "temperature", "mask_text", "augment")


def model_card(
    method: Method,
    *,
    where: str,
    params: Mapping[str, int],
    image_size: tuple[int, int],
    backbone: str | None = None,
    hub_id: bool = False,
    family: str = "clip",
    results: Mapping | None = None,
    training: Mapping | None = None,
) -> str:
    """Returns the card as Markdown.

    Args:
      method: what was trained.
      where: the argument of `from_pretrained` that loads the model.
      params: the numbers of `trainable` and `total` parameters.
      image_size: (height, width) in pixels.
      backbone: the name of the CLIP that the model needs, if any.
      hub_id: whether `backbone` is an id on the Hugging Face hub.
      family: of the towers, a key of `FAMILIES`.
      results: the run's results.json; without it the card has no metrics.
      training: the run's config.json; without it the card has no training section.
    """
    towers = FAMILIES[family]
    data = results["dataset"] if results else training["dataset"] if training else None
    sections = [
        _header(method, family, backbone if hub_id else None),
        MARK,
        f"# {method.name}" + (f" on {datasets.label(data)}" if data else ""),
        f"A {towers} for text-based person retrieval: it ranks photos of people by a description in words, "
        "by the cosine similarity of their features.",
        _about(
            method,
            towers,
            results or {"trainable_params": params["trainable"], "total_params": params["total"]},
        ),
        f"Images are resized to {image_size[0]} x {image_size[1]} pixels (height x width)."
        + _needs(backbone, towers),
        "## Use\n\n```python\n"
        "import tpr_jax\n"
        f"model = tpr_jax.from_pretrained({json.dumps(where, ensure_ascii=False)})\n"
        'scores = model.encode_texts(["a woman in a red coat"]) @ model.encode_images(["a.jpg", "b.jpg"]).T\n'
        "```",
    ]
    if results:
        sections.append(_numbers(results, towers))
    if training:
        sections.append(_recipe(training))
    return "\n\n".join(sections) + "\n"


def _header(method: Method, family: str, base_model: str | None) -> str:
    """Returns the YAML header of the hub; strings are quoted as JSON, which is valid YAML."""
    tags = [family, "text-based-person-retrieval", "jax", method.name]
    lines = ["library_name: tpr_jax", "pipeline_tag: feature-extraction"]
    lines += [f"base_model: {json.dumps(base_model)}"] if base_model else []
    return "\n".join(["---", *lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---"])


def _about(method: Method, towers: str, counts: Mapping) -> str:
    trained, total = counts["trainable_params"], counts["total_params"]
    lines = ["## Method", ""]
    rows = [
        *(_row("vision", part) for part in method.vision),
        *(_row("text", part) for part in method.text),
    ]
    if method.prompts:
        rows.append(["both", "prompts", "sequence", _settings(method.prompts)])
    rows += [[towers, "own weights", f"`{markdown.escape(pattern)}`", "trained"] for pattern in method.tuned]
    if rows:
        lines.append(markdown.table(["tower", "part", "where", "settings"], rows, align="llll"))
    else:
        lines += [f"{towers}'s two towers without adapters."]
    if trained:
        lines += ["", f"{trained:,} of {total:,} parameters were trained ({100 * trained / total:.2f} %)."]
    else:
        lines += ["", f"{total:,} parameters."]
    return "\n".join(lines)


def _row(tower: str, part: Part) -> list[str]:
    return [tower, part.kind, ", ".join(part.slots), _settings(part)]


def _settings(part) -> str:
    """Formats the settings that the slots do not show, as `rank 32, scale learned, blocks 0 to 11`."""
    words = []
    for key, value in dataclasses.asdict(part).items():
        if key == "layers":
            first, end = value
            words += (
                []
                if (first, end) == (0, None)
                else [f"blocks {first} to {'the last' if end is None else end - 1}"]
            )
        elif key not in ("slot", "targets") and value is not None:
            words.append(f"{key} {value}")
    return markdown.escape(", ".join(words))


def _needs(backbone: str | None, towers: str) -> str:
    if backbone is None or backbone.startswith("./"):
        return ""
    return f" The folder holds only what was trained; {towers} itself is read from `{backbone}`."


def _numbers(results: Mapping, towers: str) -> str:
    label = datasets.label(results["dataset"])
    best = results.get("best_on_val")
    states = [
        (f"{towers}, zero-shot", results["zero_shot"]["test"]),
        ("last epoch", results["final"]["test"]),
    ]
    if best:
        states.append((f"best epoch on val ({best['epoch']})", best["test"]))
    states[-1] = (f"**{states[-1][0]}: this model**", states[-1][1])
    if on_test := results.get("best_on_test"):
        states.append((f"best epoch on the test split itself ({on_test['epoch']})", on_test["test"]))
    lines = [f"## Numbers\n\n{label}, test split, percent.", ""]
    rows = [
        [name, query, *(f"{scored[key][score]:.2f}" for score in SCORES)]
        for name, scored in states
        for key, query in (("t2i", "text"), ("i2t", "image"))
    ]
    table = markdown.table(["", "query", *SCORES], rows, align="ll" + "r" * len(SCORES))
    return "\n".join([*lines, table])


def _recipe(training: Mapping) -> str:
    losses = ", ".join(f"{weight:g} {name}" for name, weight in training.get("losses", {}).items() if weight)
    optimizer = training.get("optimizer", {})
    facts = {
        "data": datasets.label(training["dataset"]),
        "backbone": training.get("backbone"),
        "losses": losses,
        **{key: training.get(key) for key in RECIPE},
        "learning rate": optimizer.get("lr"),
        "schedule": optimizer.get("schedule"),
        "weight decay": optimizer.get("weight_decay"),
    }
    rows = [[key, markdown.escape(_plain(value))] for key, value in facts.items() if value not in (None, "")]
    return "\n".join(["## Training", "", markdown.table(["", ""], rows, align="ll")])


def _plain(value) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
