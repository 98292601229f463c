"""The teacher of a distillation: a frozen model whose features of each batch the losses compare with."""

from collections.abc import Callable

import jax
import numpy as np

from tpr_jax import model as model_lib
from tpr_jax.data.records import caption_pairs
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.train import agreement, step
from tpr_jax.train.setup import Run

COMPARED = 256  # captions whose ids must be the same for teacher and student


def make_annotate(run: Run) -> Callable[[dict], dict]:
    """Returns a function that adds the teacher's features to a batch on the mesh; without a teacher, nothing.

    The function adds `teacher_image` and `teacher_text`, float32 [b, e], of the same augmented images and
    masked captions that the student gets; with several captions per image, `teacher_text` is [b, c, e].

    Raises:
      UserError: the teacher cannot be read, or its tokens or features do not fit the student's.
    """
    if not run.config.distill.teacher:
        return lambda batch: batch
    teacher = _load(run)
    functions = clip.build(teacher.config, teacher.method, run.config.dtype)
    encode_image, encode_text = (
        step.jit_encoder(functions[name], run.mesh, dtype=run.config.dtype)
        for name in ("encode_image", "encode_text")
    )
    variables = sharding.shard_params(run.mesh, teacher.inference_variables)

    def annotate(batch: dict) -> dict:
        *rows, length = batch["ids"].shape
        texts = encode_text(variables, batch["ids"].reshape(-1, length))
        images = encode_image(variables, batch["image"])
        return {**batch, "teacher_image": images, "teacher_text": texts.reshape(*rows, -1)}

    return annotate


def _load(run: Run) -> model_lib.Model:
    config = run.config
    name = config.distill.teacher
    teacher = model_lib.from_pretrained(name, tuple(config.image_size), config.dtype)
    if jax.process_count() > 1:
        weights = agreement.of_weights(teacher.variables)
        agreement.check_same("teacher", weights, "give all the same config.distill.teacher")
    _check_tokens(run, teacher)
    sizes = teacher.config.embed_dim, run.clip_config.embed_dim
    if config.distill.feats and sizes[0] != sizes[1]:
        raise UserError(
            f"config.distill.feats={config.distill.feats}: the teacher's features have {sizes[0]} numbers, "
            f"the student's {sizes[1]}: set config.distill.feats=0; config.distill.scores has no such limit"
        )
    return teacher


def _check_tokens(run: Run, teacher: model_lib.Model) -> None:
    """Checks that the student's token ids mean the same to the teacher."""
    name = run.config.distill.teacher
    if teacher.tokenizer is None:
        raise UserError(f"config.distill.teacher={name!r}: has no tokenizer.json: put it beside its weights")
    captions = caption_pairs(run.splits["train"])[1][:COMPARED]
    ours, theirs = run.tokenizer(captions), teacher.tokenizer(captions)
    if ours.shape[1] > teacher.config.context_length:
        raise UserError(
            f"config.distill.teacher={name!r}: reads at most {teacher.config.context_length} tokens: set "
            f"config.text_length={teacher.config.context_length}"
        )
    # A text that is truncated ends with end of text too: only texts that both read whole are compared.
    ends = [np.asarray(clip.read_positions(ids, teacher.config)) for ids in (ours, theirs)]
    length = min(ours.shape[1], theirs.shape[1])
    whole = np.maximum(*ends) < length - 1
    if (ours[whole, :length] != theirs[whole, :length]).any():
        raise UserError(
            f"config.distill.teacher={name!r}: has another vocabulary than {run.backbone.name}: choose a "
            "teacher with the student's tokenizer"
        )
