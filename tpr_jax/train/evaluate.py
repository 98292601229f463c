"""Encodes a split, scores it, and ranks examples for the report."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from tpr_jax.data import records as records_lib
from tpr_jax.data.bucketing import sort_by_length
from tpr_jax.distributed import processes, sharding
from tpr_jax.errors import UserError
from tpr_jax.metrics import ranking_device, retrieval
from tpr_jax.models import clip
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import zero_shot
from tpr_jax.train import step
from tpr_jax.train.setup import Run
from tpr_jax.utils.plural import counted

ANY_CLIP = ClipConfig()


class EncodedSplit(NamedTuple):
    """The features and identities of a split: texts are queries, images the gallery.

    Attributes:
      query_feats: the features of all captions.
      query_pids: their identities.
      captions: their texts.
      gallery_feats: the features of all images.
      gallery_pids: their identities.
      paths: where the images are, as `data.images.read.read_image` takes it.
      query_images: the image of each caption, an index of the gallery.
    """

    query_feats: Float[np.ndarray, "q e"]
    query_pids: Int[np.ndarray, " q"]
    captions: list[str]
    gallery_feats: Float[np.ndarray, "g e"]
    gallery_pids: Int[np.ndarray, " g"]
    paths: Sequence
    query_images: Int[np.ndarray, " q"]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Scores the splits of a run."""

    run: Run

    @property
    def splits(self) -> list[str]:
        """The splits that `score_epoch` scores: val if there is one, and test if the config asks for it."""
        wanted = {"val": "val" in self.run.splits, "test": self.run.config.eval_test_each_time}
        return [split for split in wanted if wanted[split]]

    def score_split(
        self, variables: dict, split: str, encoders: tuple[Callable, Callable] | None = None
    ) -> tuple[dict, EncodedSplit]:
        """Returns (metrics, encoded split).

        Args:
          variables: all collections of the model.
          split: the name of the split.
          encoders: the encoders of both towers; by default the run's own.
        """
        run = self.run
        encoded = encode_split(
            encoders or run.encoders,
            variables,
            run.splits[split],
            run.tokenizer,
            tuple(run.config.image_size),
            run.config.eval_batch_size,
            skipped=run.skipped,
            mesh=run.mesh,
            config=run.clip_config,
        )
        return score(encoded), encoded

    def encode_captions(self, variables: dict, split: str) -> Float[np.ndarray, "q e"]:
        """Returns the features of all captions of a split.

        Args:
          variables: all collections of the model.
          split: the name of the split.
        """
        run = self.run
        _, captions, _ = records_lib.caption_pairs(run.splits[split])
        batch_size = sharding.padded_size(run.mesh, run.config.eval_batch_size)
        return encode_texts(run.encoders[1], variables, captions, run.tokenizer, batch_size, run.clip_config)

    def score_epoch(self, variables: dict) -> dict[str, dict]:
        """Returns the metrics of each of `splits`."""
        return {split: self.score_split(variables, split)[0] for split in self.splits}

    def score_zero_shot(self) -> dict:
        """Returns the metrics of CLIP before training, on the test split."""
        run = self.run
        model = clip.build(run.clip_config, zero_shot(), run.config.dtype)
        params = run.variables(run.trainable)["params"]
        encoders = step.jit_encoders(model, run.mesh, dtype=run.config.dtype)
        return self.score_split({"params": params}, "test", encoders)[0]


def encode(
    encoder: Callable, variables: dict, batches: Iterable, total: int, name: str
) -> Float[np.ndarray, "n e"]:
    """Encodes batches of (rows, number of valid rows); returns the features of the valid rows, in order.

    Args:
      encoder: `(variables, rows) -> features`.
      variables: all collections of the model.
      batches: the batches.
      total: the number of batches, for the progress bar.
      name: the label of the progress bar.
    """
    feats = []
    for rows, valid in tqdm(batches, total=total, desc=name, leave=False, dynamic_ncols=True, disable=None):
        feats.append(np.asarray(encoder(variables, rows))[:valid])
    return np.concatenate(feats)


def encode_split(
    encoders: tuple[Callable, Callable],
    variables: dict,
    records: records_lib.Records,
    tokenizer: Callable,
    image_size: tuple[int, int],
    batch_size: int,
    *,
    skipped: dict[str, str] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    config: ClipConfig = ANY_CLIP,
) -> EncodedSplit:
    """Encodes all images and captions of a split.

    Args:
      encoders: `(variables, images or ids) -> features` of both towers.
      variables: all collections of the model.
      records: the records of the split.
      tokenizer: `(list of captions) -> int32 [n, l]`.
      image_size: height and width, pixels.
      batch_size: the number of rows of a batch.
      skipped: if given, an image that cannot be read is left out together with its captions, and the reason
        is added here under its name. Otherwise it is an error.
      mesh: the mesh of the encoders. Batches are padded to what all its devices need, and each of several
        processes reads only the images that its own devices encode.
      config: says where the text tower reads a text, see `clip.read_positions`.

    Raises:
      UserError: an image cannot be read, or with `skipped`, none can.
    """
    from tpr_jax.data import pipeline  # imports TensorFlow, which ranking itself does not need

    encode_image, encode_text = encoders
    batch_size = batch_size if mesh is None else sharding.padded_size(mesh, batch_size)
    local_rows = (
        sharding.local_row_mask(mesh, batch_size) if mesh is not None and jax.process_count() > 1 else None
    )
    sources, bad = records_lib.image_sources(records), None if skipped is None else {}
    images = pipeline.image_batches(sources, image_size, batch_size, bad, local_rows)
    gallery_feats = encode(encode_image, variables, images, -(-len(sources) // batch_size), "photos")
    if bad is not None and local_rows is not None:
        gathered = processes.all_gather_dict({str(row): reason for row, reason in bad.items()})
        bad = {int(row): reason for row, reason in gathered.items()}
    if bad and skipped is not None:
        skipped.update({str(sources[row]): reason for row, reason in bad.items()})
        kept = ~np.isin(np.arange(len(sources)), list(bad))
        if not kept.any():
            raise UserError(
                f"{records.name}: none of its {counted(len(sources), 'photo')} can be read: {bad[min(bad)]}"
            )
        records, gallery_feats = records_lib.select_images(records, kept), gallery_feats[kept]
    query_images, captions, query_pids = records_lib.caption_pairs(records)
    return EncodedSplit(
        query_feats=encode_texts(encode_text, variables, captions, tokenizer, batch_size, config),
        query_pids=query_pids,
        captions=captions,
        gallery_feats=gallery_feats,
        gallery_pids=records.pids,
        paths=records_lib.image_sources(records),
        query_images=query_images,
    )


def encode_texts(
    encoder: Callable,
    variables: dict,
    captions: list[str],
    tokenizer: Callable,
    batch_size: int,
    config: ClipConfig,
) -> Float[np.ndarray, "n e"]:
    """Encodes captions in the order of their lengths, and returns the features in their own order.

    Args:
      encoder: `(variables, ids) -> features`.
      variables: all collections of the model.
      captions: the captions.
      tokenizer: `(list of captions) -> int32 [n, l]`.
      batch_size: the number of rows of a batch, as large as the encoder's mesh needs.
      config: says where the text tower reads a text, see `clip.read_positions`.
    """
    from tpr_jax.data import pipeline  # imports TensorFlow, which ranking itself does not need

    ids = tokenizer(captions)
    ends = clip.read_positions(ids, config)
    order, inverse = sort_by_length(ends)
    texts = pipeline.text_batches(ids[order], batch_size, ends[order])
    return encode(encoder, variables, texts, -(-len(captions) // batch_size), "captions")[inverse]


def score(split: EncodedSplit) -> dict[str, dict[str, float]]:
    """Computes R@1, R@5, R@10, mAP and mINP of both directions, percent.

    Ranks on the devices if there are accelerators or several devices, otherwise on the CPU with NumPy.
    """
    on_devices = jax.default_backend() != "cpu" or jax.local_device_count() > 1
    return retrieval.retrieval_metrics(
        split.query_feats,
        split.gallery_feats,
        split.query_pids,
        split.gallery_pids,
        pair_ranks=ranking_device.pair_ranks if on_devices else None,
    )


def examples(split: EncodedSplit, count: int, top_k: int, seed: int = 0) -> list[dict]:
    """Returns the first `top_k` images for `count` captions drawn at random, for the report."""
    chosen = np.random.default_rng(seed).permutation(len(split.captions))[:count]
    scores, index = retrieval.top_k(split.query_feats[chosen], split.gallery_feats, top_k)
    return [
        {
            "caption": split.captions[query],
            "pid": int(split.query_pids[query]),
            "ranked": _ranked(split, index[row], scores[row]),
        }
        for row, query in enumerate(chosen)
    ]


def _ranked(split: EncodedSplit, index: Int[np.ndarray, " k"], scores: Float[np.ndarray, " k"]) -> list[dict]:
    return [
        {"path": split.paths[i], "pid": int(split.gallery_pids[i]), "score": float(s)}
        for i, s in zip(index, scores, strict=True)
    ]
