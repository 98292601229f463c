"""Converts a checkpoint of another program to a folder that `from_pretrained` loads."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tpr_jax.errors import UserError
from tpr_jax.model import Model, from_pretrained, make_model, matching_tokenizer
from tpr_jax.models.methods import zero_shot
from tpr_jax.utils.plural import counted
from tpr_jax.weights import reference
from tpr_jax.weights.checkpoint import Checkpoint, read_checkpoint
from tpr_jax.weights.fine_tuned import check_method, read_fine_tuned
from tpr_jax.weights.folder_format import is_open_clip
from tpr_jax.weights.json_files import read_json
from tpr_jax.weights.new_folder import check_new_folder, write_new_folder
from tpr_jax.weights.open_clip import from_open_clip
from tpr_jax.weights.open_clip_config import CONFIG as OPEN_CLIP_CONFIG
from tpr_jax.weights.open_clip_config import read_image_settings

METHODS = (*reference.METHOD_NAMES, "clip", "open_clip")


@dataclasses.dataclass(frozen=True)
class Settings:
    """User settings for a checkpoint; None means the checkpoint's own value.

    Attributes:
      image_size: (height, width) in pixels, to which the position embedding is resized.
      act: the activation.
      heads: the attention heads of the vision and of the text tower.
      image_mean: the mean of the red, green and blue channels, for pixels in [0, 1].
      image_std: their standard deviation.
      method: settings of the method, such as `top_k`.
    """

    image_size: tuple[int, int] | None = None
    act: str | None = None
    heads: tuple[int, int] | None = None
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def given(self, *names: str) -> dict[str, Any]:
        """Returns those of the named settings that are not None."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def import_checkpoint(
    source: str, method: str, out: Path, settings: Settings, log: Callable[[str], object] = print
) -> None:
    """Reads a checkpoint, converts it and writes a new folder.

    Args:
      source: a file, an index of shards or a folder; for "clip" and "open_clip" also a hub id.
      method: one of `METHODS`.
      out: the folder to create.
      settings: what the checkpoint does not say.
      log: called with each line of the report.

    Raises:
      UserError: `out` exists, the checkpoint is damaged or of another method, or a setting does not fit.
    """
    check_new_folder(out)
    convert = {"clip": _convert_clip, "open_clip": _convert_open_clip}.get(method)
    model = convert(source, settings, log) if convert else _convert_method(source, method, settings, log)
    log(f"model: {describe(model)}")
    write_new_folder(out, model.save_pretrained)
    log(f'wrote: {out}; load it with tpr_jax.from_pretrained("{out}")')


def describe(model: Model) -> str:
    """Returns the sizes of a model and what its method adds, in one line."""
    config, count = model.config, model.num_params()
    height, width = config.image_size
    line = (
        f"{height}x{width} pixels in patches of {config.patch_size}; vision {config.vision_layers} x "
        f"{config.vision_width} with {config.vision_heads} heads, text {config.text_layers} x "
        f"{config.text_width} with {config.text_heads} heads and {config.context_length} tokens; "
        f"{config.act}; features of {config.embed_dim}; {count['total']:,} parameters"
    )
    return f"{line}, {count['trainable']:,} of them of {model.method.name}" if count["trainable"] else line


def _convert_method(source: str, method: str, settings: Settings, log: Callable) -> Model:
    """Converts an authors' checkpoint of a method."""
    for name in settings.given("act", "heads"):
        raise UserError(f"--{name}: the checkpoints of {method} are based on OpenAI's CLIP; leave it out")
    checkpoint = _read(source, log)
    check_method(checkpoint.state, method, source)
    try:
        model = reference.load(
            checkpoint.state, method=method, image_size=settings.image_size, **settings.method
        )
        clip_state, method_state = reference.split(checkpoint.state, method)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    dropped = len(checkpoint.state) - len(clip_state) - len(method_state)
    if dropped:
        log(f"skipped: {dropped} arrays that no feature depends on, such as the temperature")
    parts = (*model.method.vision, *model.method.text, model.method.prompts)
    log("inferred: " + "; ".join(dict.fromkeys(str(part) for part in parts if part)) + _heads_note(method))
    return _with_constants(model, settings)


def _heads_note(method: str) -> str:
    return (
        "the heads of the losses are not saved, because retrieval does not use them"
        if method == "irra"
        else ""
    )


def _convert_clip(source: str, settings: Settings, log: Callable) -> Model:
    """Converts a CLIP: a folder or hub id in a known form, or the CLIP in a fine-tuned model."""
    _reject_method_settings(settings)
    path = Path(source)
    if (path.is_dir() and _has_config(path)) or not path.exists():
        return _convert_known_form(source, settings, log)
    checkpoint = _read(source, log)
    found = read_fine_tuned(checkpoint.state, **settings.given("image_size", "act", "heads"), where=source)
    if found.left_out:
        listed = ", ".join(f"{module} ({count})" for module, count in sorted(found.left_out.items()))
        log(f"left out: arrays of modules that are not CLIP's: {listed}")
    if found.assumed:
        log("assumed: OpenAI's quick GELU and heads of width 64, as the file does not record them")
    return _zero_shot(found.config, found.params, source, settings)


def _convert_open_clip(source: str, settings: Settings, log: Callable) -> Model:
    """Converts a folder, a hub id or a file of OpenCLIP."""
    _reject_method_settings(settings)
    path = Path(source)
    config_file = (path if path.is_dir() else path.parent) / OPEN_CLIP_CONFIG
    if not path.exists() or (path.is_dir() and is_open_clip(path)):
        return _convert_known_form(source, settings, log)
    if not config_file.is_file():
        if path.is_dir():
            raise UserError(f"{config_file}: no such file; restore it, or give the file of weights itself")
        return _convert_clip(source, settings, log)
    checkpoint, content = _read(source, log), read_json(config_file)
    log(f"config: {config_file}")
    config, params = from_open_clip(checkpoint.state, content, settings.image_size, where=source)
    constants = read_image_settings(content, str(config_file))
    config = dataclasses.replace(config, image_mean=constants.mean, image_std=constants.std)
    return _zero_shot(config, params, source, settings)


def _convert_known_form(source: str, settings: Settings, log: Callable) -> Model:
    model = from_pretrained(source, **settings.given("image_size", "act", "heads", "image_mean", "image_std"))
    log(f"read: {model.backbone.path if model.backbone else source}")
    return model


def _zero_shot(config, params, source: str, settings: Settings) -> Model:
    tokenizer = matching_tokenizer(config)
    model = make_model(config, zero_shot(), {"params": params}, tokenizer=tokenizer, source=source)
    return _with_constants(model, settings)


def _with_constants(model: Model, settings: Settings) -> Model:
    constants = settings.given("image_mean", "image_std")
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **constants))


def _read(source: str, log: Callable) -> Checkpoint:
    checkpoint = read_checkpoint(Path(source))
    kinds = sorted({str(np.asarray(array).dtype) for array in checkpoint.state.values()})
    names = ", ".join(file.name for file in checkpoint.files)
    log(f"read: {names}: {counted(len(checkpoint.state), 'array')} of {', '.join(kinds)}")
    if checkpoint.skipped:
        log(f"skipped: entries beside the weights: {', '.join(sorted(checkpoint.skipped))}")
    return checkpoint


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_open_clip(folder)


def _reject_method_settings(settings: Settings) -> None:
    for name in settings.method:
        raise UserError(f"--set {name}: CLIP has no settings of a method; leave it out")
