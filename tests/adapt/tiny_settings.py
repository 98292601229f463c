"""The settings of a small adaptation."""

from pathlib import Path

from tpr_jax.adapt.task import Settings


def make_settings(tiny: dict[str, str], texts: Path, **changes) -> Settings:
    """Returns settings for the tiny CLIP, its photos and a file of descriptions."""
    given = {
        "model": tiny["clip"],
        "photos": f"{tiny['data']}/imgs",
        "texts": str(texts),
        "train": "layer_norm",
        "lr": 1e-2,
        "temperature": 0.05,
        "batch_size": 6,
    }
    return Settings(**given, **changes)
