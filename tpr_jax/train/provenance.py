"""What a run was trained with, and whether its backbone and data are still the same."""

from collections.abc import Mapping
from pathlib import Path

from tpr_jax.errors import UserError
from tpr_jax.train import lineage
from tpr_jax.train.setup import Run, count
from tpr_jax.utils.notices import print_once


def backbone_facts(run: Run) -> dict:
    """Returns facts about a run's backbone besides its weights, as JSON values.

    `revision` is the commit of a hub id, None for a folder. `trained_on` has the data sets of the run that
    trained the backbone, if it is one's folder.
    """
    base, sizes = run.backbone, run.clip_config
    earlier = () if run.config.from_scratch else lineage.of_backbone(str(run.config.backbone))
    return {
        "name": base.name,
        "revision": base.revision,
        "image_mean": list(sizes.image_mean),
        "image_std": list(sizes.image_std),
        "act": sizes.act,
        "heads": [sizes.vision_heads, sizes.text_heads],
        "image_size": list(sizes.image_size),
        "text_length": run.config.text_length or sizes.context_length,
        "from_scratch": bool(run.config.from_scratch),
        "params": sum(count(part.get("params", {})) for part in (run.trainable, run.frozen)),
        **({"trained_on": list(earlier)} if earlier else {}),
    }


def check_backbone(before: dict | None, now: dict, workdir: Path) -> None:
    """Compares the backbone that a run's checkpoints were trained with to the current one.

    Args:
      before: the facts in the checkpoint; None in old checkpoints.
      now: the facts of the current backbone.
      workdir: the folder of the run, for messages.

    Raises:
      UserError: the mean, std, activation or number of heads differs.
    """
    for key in ("image_mean", "image_std", "act", "heads"):
        if before and before.get(key) != now[key]:
            raise UserError(
                f"--workdir {workdir}: was trained with {key}={before.get(key)} of the backbone, but "
                f"{now['name']} now has {now[key]}: restore its files, or choose another --workdir"
            )
    if before and before.get("revision") != now["revision"]:
        previous = before.get("revision") or "another place"
        print_once(
            f"{workdir} was trained on {before['name']} at {previous}, now it is "
            f"{now['revision'] or now['name']}; config.backbone=NAME@COMMIT pins one in a new run"
        )


def check_data(before: Mapping[str, str] | None, now: Mapping[str, str], workdir: Path) -> None:
    """Rejects other data than that on which a run began, so that its results are of one data set.

    Args:
      before: the digests of the annotations in the checkpoint; None in old checkpoints.
      now: the current ones.
      workdir: the folder of the run, for messages.

    Raises:
      UserError: the people or captions of a split differ.
    """
    if changed := changed_splits(before, now):
        raise UserError(
            f"--workdir {workdir}: was trained on other data: {changed} had other people or captions; give "
            "the same data again, or choose another --workdir"
        )


def changed_splits(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """Names the splits whose annotations differ; empty without any, or if `before` is unknown."""
    if not before:
        return ""
    return " and ".join(name for name in {**before, **now} if before.get(name) != now.get(name))
