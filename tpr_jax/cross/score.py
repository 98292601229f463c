"""Scores a model on a test split, and reads earlier scores."""

import json
from collections.abc import Mapping
from pathlib import Path

from tpr_jax.data.records import Records
from tpr_jax.metrics.retrieval import METRIC_KEYS

BATCH_SIZE = 64  # captions that are encoded at once

Scores = dict[str, dict[str, float]]  # direction -> metric -> percent


def read_cell(path: Path, source: Mapping[str, str]) -> Scores | None:
    """Reads the scores in a cell's file; None unless they are complete and its checksums are these."""
    try:
        cell = json.loads(path.read_text())
        if any(cell[key] != value for key, value in source.items()):
            return None
        scores = cell["test"]
        complete = all(float(scores[d][key]) >= 0 for d in ("t2i", "i2t") for key in METRIC_KEYS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return scores if complete else None


def load(location: str):
    """Loads a model; imports JAX, which takes seconds."""
    import tpr_jax

    return tpr_jax.from_pretrained(location)


def score(model, records: Records) -> Scores:
    """Returns R@1, R@5, R@10, mAP and mINP of a model on a split, both directions, in percent.

    Raises:
      UserError: an image cannot be read.
    """
    import numpy as np
    from tqdm import tqdm

    from tpr_jax.data.batches import image_batches
    from tpr_jax.data.records import caption_pairs, image_sources
    from tpr_jax.metrics.retrieval import retrieval_metrics
    from tpr_jax.perf.batches import images_at_once

    _, captions, query_pids = caption_pairs(records)
    bar = {"leave": False, "dynamic_ncols": True, "disable": None}
    size = images_at_once(model.config)
    total = -(-len(records.image_paths) // size)
    batches = image_batches(image_sources(records), model.config.image_size, size)
    gallery = [
        model.encode_images(images, size)[:valid]
        for images, valid in tqdm(batches, total=total, desc="images", **bar)
    ]
    queries = [
        model.encode_texts(captions[start : start + 16 * BATCH_SIZE], BATCH_SIZE)
        for start in tqdm(range(0, len(captions), 16 * BATCH_SIZE), desc="captions", **bar)
    ]
    return retrieval_metrics(np.concatenate(queries), np.concatenate(gallery), query_pids, records.pids)
