"""Scores models on the hard MiniPEDES by what makes an image hard, and on look-alikes.

    python -m tools.score_hard --data data/hard runs/dm_adapter/model clip-mini

A query counts for the conditions of its own image.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Float, Int

from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.cli.parser import Parser, path
from tpr_jax.errors import UserError
from tpr_jax.utils.markdown import table

ALL, NONE = "all", "none"
LOOK_ALIKES = ("look-alikes", "confused", "among 4")


def score(
    similarity: Float[np.ndarray, "q g"], images: Int[np.ndarray, " q"], records: Sequence[Mapping]
) -> dict[str, float]:
    """Computes R@1 in percent of all queries and of each condition, and the scores of look-alikes.

    Args:
      similarity: of each query and each image.
      images: the index of the image that each query describes; no other image shows that person.
      records: the record of each image, of which `hard` and `group` are read.

    Returns:
      R@1 by condition, also of "all" images and those without any ("none"); R@1 of "look-alikes", how often
      another one of the group is first ("confused"), and how often the right one is the first of its group
      ("among 4", by chance 25). Those without queries are NaN.
    """
    first = similarity.argmax(1)
    hit = first == images
    conditions = [set(records[i]["hard"]) for i in images]
    groups = np.array([record.get("group", -1) for record in records])
    own = groups[images]
    in_group = own >= 0
    rivals = np.where(own[:, None] == groups, similarity, -np.inf)
    names = sorted({name for found in conditions for name in found})

    def percent(values, mask) -> float:
        return 100.0 * float(np.mean(values[mask])) if np.any(mask) else float("nan")

    everything = np.ones(len(images), bool)
    out = {ALL: percent(hit, everything), NONE: percent(hit, np.array([not found for found in conditions]))}
    out |= {name: percent(hit, np.array([name in found for found in conditions])) for name in names}
    confused = (groups[first] == own) & ~hit
    values = (hit, confused, rivals.argmax(1) == images)
    return out | {name: percent(value, in_group) for name, value in zip(LOOK_ALIKES, values, strict=True)}


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: a model or the data cannot be read, or the data is not the hard MiniPEDES.
    """
    parser = Parser(prog="python -m tools.score_hard", description=__doc__)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="folders or names of models")
    parser.add_argument("--data", type=path, required=True, help="folder of the hard MiniPEDES")
    args = parser.parse_args(argv[1:])
    from tpr_jax import from_pretrained
    from tpr_jax.data.annotations import annotation_path
    from tpr_jax.data.records import caption_pairs, load_records
    from tpr_jax.data.text_files import json_records

    split = load_records(args.data, "test", "mini_pedes")
    annotation = annotation_path("mini_pedes", args.data)
    everything = cast(list[dict], [record for _, record in json_records(annotation)])
    records = [record for record in everything if record["split"] == "test"]
    if not all("hard" in record for record in records):
        raise UserError(f"{annotation}: is not made by `python -m tpr_jax.data.mini_pedes --hard`")
    images, captions, _ = caption_pairs(split)
    rows = []
    for name in args.models:
        model = from_pretrained(name)
        similarity = model.encode_texts(captions) @ model.encode_images(split.image_paths).T
        scores = score(similarity, images, records)
        rows.append([name, *(f"{value:.1f}" for value in scores.values())])
    print(table(["model", *scores], rows))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
