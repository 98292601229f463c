"""Encodes a split and ranks it."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from tpr_jax.data import records as records_lib
from tpr_jax.data.bucketing import sort_by_length
from tpr_jax.distributed import processes, sharding
from tpr_jax.errors import UserError
from tpr_jax.metrics import ranking_device, retrieval
from tpr_jax.models.clip import end_positions


def encode(encoder: Callable, variables: dict, batches, total: int, what: str) -> Float[np.ndarray, "n e"]:
    """Runs an encoder over batches of (rows, number that are real); features of the real rows, in order."""
    feats = []
    for rows, valid in tqdm(batches, total=total, desc=what, leave=False, dynamic_ncols=True, disable=None):
        feats.append(np.asarray(encoder(variables, rows))[:valid])
    return np.concatenate(feats)


def encode_split(
    encoders: tuple[Callable, Callable],
    variables: dict,
    records,
    tokenizer,
    image_size,
    batch_size: int,
    skipped: dict[str, str] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    eot_id: int | None = None,
) -> dict:
    """Features and identities of a split: texts are queries, images the gallery.

    Returns `query_feats` [q, e], `query_pids` [q], `captions` (list), `gallery_feats` [g, e],
    `gallery_pids` [g] and `paths` (list of what `read_image` reads).

    Where `skipped` is given, a picture that cannot be read is left out with its captions, as if the
    annotation did not have it, and `skipped` gets its name: why. Otherwise it is a UserError. With the `mesh`
    of the encoders batches have as many rows more as all its devices need, and each of several processes
    reads the pictures that its own devices encode. `eot_id` says where a text ends, as of
    `clip.end_positions`.
    """
    from tpr_jax.data import pipeline  # imports TensorFlow, which ranking itself does not need

    encode_image, encode_text = encoders
    batch_size = batch_size if mesh is None else sharding.padded_size(mesh, batch_size)
    here = sharding.local_row_mask(mesh, batch_size) if mesh is not None and jax.process_count() > 1 else None
    sources, bad = records_lib.image_sources(records), None if skipped is None else {}
    images = pipeline.image_batches(sources, image_size, batch_size, bad, here)
    gallery_feats = encode(encode_image, variables, images, -(-len(sources) // batch_size), "photos")
    if bad is not None and here is not None:
        found = processes.all_gather_dict({str(row): why for row, why in bad.items()})
        bad = {int(row): why for row, why in found.items()}
    if bad:
        skipped.update({str(sources[row]): why for row, why in bad.items()})
        kept = ~np.isin(np.arange(len(sources)), list(bad))
        if not kept.any():
            raise UserError(
                f"{records.name}: none of its {len(sources)} pictures can be read: {bad[min(bad)]}"
            )
        records, gallery_feats = records_lib.keep_images(records, kept), gallery_feats[kept]
    _, captions, query_pids = records_lib.caption_pairs(records)
    ids = tokenizer(captions)
    ends = end_positions(ids, eot_id)
    order, back = sort_by_length(ends)
    texts = pipeline.text_batches(ids[order], batch_size, ends[order])
    feats = encode(encode_text, variables, texts, -(-len(captions) // batch_size), "captions")
    return {
        "query_feats": feats[back],
        "query_pids": query_pids,
        "captions": captions,
        "gallery_feats": gallery_feats,
        "gallery_pids": records.pids,
        "paths": records_lib.image_sources(records),
    }


def score(split: dict) -> dict:
    """R@1, R@5, R@10, mAP and mINP of an encoded split, both directions, percent.

    Ranked on the devices where there are accelerators or several devices, else on the CPU with NumPy.
    """
    names = ("query_feats", "gallery_feats", "query_pids", "gallery_pids")
    on_devices = jax.default_backend() != "cpu" or jax.local_device_count() > 1
    pair_ranks = ranking_device.pair_ranks if on_devices else None
    return retrieval.retrieval_metrics(*(split[name] for name in names), pair_ranks=pair_ranks)


def examples(split: dict, count: int, top_k: int, seed: int = 0) -> list[dict]:
    """The first `top_k` photos for `count` captions drawn at random, for the report."""
    chosen = np.random.default_rng(seed).permutation(len(split["captions"]))[:count]
    scores, index = retrieval.top_k(split["query_feats"][chosen], split["gallery_feats"], top_k)
    return [
        {
            "caption": split["captions"][query],
            "pid": int(split["query_pids"][query]),
            "ranked": [
                {"path": split["paths"][i], "pid": int(split["gallery_pids"][i]), "score": float(s)}
                for i, s in zip(index[row], scores[row], strict=True)
            ],
        }
        for row, query in enumerate(chosen)
    ]
