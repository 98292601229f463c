"""The methods: which parts fill which slots of which tower, with which settings."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.petl_config import (
    PARTS,
    Adapter,
    Lora,
    LoraMoe,
    Moe,
    Part,
    Prefix,
    Prompts,
    check_prompts,
    check_tower,
)


@dataclass(frozen=True)
class Method:
    """The parts, prompts and tuned weights that adapt CLIP.

    Attributes:
      name: the method's name in a config.
      vision: the parts of the vision tower.
      text: the parts of the text tower.
      prompts: the prompt tokens of both towers, if any.
      tuned: regular expressions for the weights of CLIP itself that train; each must match a whole path, such
        as `visual/block_0/mlp/fc/bias`.
    """

    name: str
    vision: tuple[Part, ...] = ()
    text: tuple[Part, ...] = ()
    prompts: Prompts | None = None
    tuned: tuple[str, ...] = ()

    @property
    def trainable(self) -> tuple[str, ...]:
        """The sorted collections that receive gradients; `params` is among them if `tuned` has patterns."""
        names = {part.collection for part in (*self.vision, *self.text)}
        names |= {"prompt"} if self.prompts else set()
        return tuple(sorted(names | ({"params"} if self.tuned else set())))

    @property
    def mixtures(self) -> tuple[Moe | LoraMoe, ...]:
        """The parts that are mixtures of experts."""
        parts = tuple(part for part in (*self.vision, *self.text) if part.is_mixture)
        return cast(tuple[Moe | LoraMoe, ...], parts)  # `is_mixture` promises their settings


def check(method: Method, config: ClipConfig) -> None:
    """Checks that a method fits a CLIP of these sizes.

    Raises:
      UserError: it does not; the message names the first part that does not fit.
    """
    context = config.context_length
    for tower in ("vision", "text"):
        layers, width = getattr(config, f"{tower}_layers"), getattr(config, f"{tower}_width")
        check_tower(getattr(method, tower), tower, layers=layers, width=width, context=context)
    for pattern in method.tuned:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"tuned: {pattern!r} is not a regular expression: {error}") from error
    if method.prompts:
        check_prompts(method.prompts, (config.vision_layers, config.text_layers), context)


# Published methods


def dm_adapter(
    num_experts: int = 6, top_k: int = 2, reduction: int = 8, router: str = "blend", scales=(0.1, 4.0)
) -> Method:
    """Returns DM-Adapter (AAAI 2025): a mixture of adapters beside each MLP of both towers.

    Args:
      num_experts: the number of experts of each mixture.
      top_k: the number of experts that each token is routed to.
      reduction: the tower's width divided by each expert's bottleneck.
      router: "blend", "sum" or "input", see `petl.moe.router_logits`.
      scales: the scales of the vision and the text tower's mixtures.
    """
    vision, text = (Moe("beside_mlp", num_experts, top_k, reduction, router, s) for s in scales)
    return Method("dm_adapter", (vision,), (text,))


def up_person(
    rank: int = 32,
    prefix: int = 10,
    reduction: int = 8,
    version: str = "paper",
    use=("prefix", "lora", "adapter"),
    vanilla: bool = False,
    *,
    depth_lora: int | None = None,
    depth_prefix: int | None = None,
    depth_adapter: int = 0,
) -> Method:
    """Returns UP-Person (2025): S-Prefix, LoRA on keys and values, and L-Adapters beside both LayerNorms.

    Args:
      rank: the rank of the LoRA updates.
      prefix: the number of prefix tokens.
      reduction: the tower's width divided by each adapter's bottleneck.
      version: "paper" initializes S-Prefix's scalar to 10, "released" to 100.
      use: the parts to keep, for the paper's ablations.
      vanilla: whether the prefix has no S-Prefix scalar, for the paper's ablations.
      depth_lora: the number of first blocks with LoRA; None is all.
      depth_prefix: the number of first blocks with a prefix; None is all.
      depth_adapter: the first block with adapters.
    """
    if version not in ("paper", "released"):
        raise UserError(f"version={version!r} is unknown: choose from paper, released")
    if not use or not set(use) <= {"prefix", "lora", "adapter"}:
        raise UserError(f"use={tuple(use)} must name some of prefix, lora, adapter")
    gate = None if vanilla else {"paper": 10.0, "released": 100.0}[version]
    parts: list[Part] = []
    if "adapter" in use:
        parts += [
            Adapter(slot, reduction, "learned", norm=False, layers=(depth_adapter, None))
            for slot in ("beside_ln_1", "beside_ln_2")
        ]
    if "lora" in use:
        parts.append(Lora(("k", "v"), rank, "learned", layers=(0, depth_lora)))
    if "prefix" in use:
        parts.append(Prefix(prefix, gate, layers=(0, depth_prefix)))
    return Method("up_person", tuple(parts), tuple(parts))


def cskt(
    prompts: int = 4, depth: int | None = None, reduction: int = 8, direction: str = "both", scales=(0.1, 4.0)
) -> Method:
    """Returns CSKT (ICASSP 2024): bidirectional prompts, and an adapter beside each MLP of both towers.

    Args:
      prompts: the number of prompt tokens that each tower owns.
      depth: the number of first blocks with prompts; None is all.
      reduction: the tower's width divided by each adapter's bottleneck.
      direction: the towers that get tokens mapped from the other's, see `Prompts`.
      scales: the scales of the vision and the text tower's adapters.
    """
    vision, text = (Adapter("beside_mlp", reduction, s, init="normal") for s in scales)
    return Method("cskt", (vision,), (text,), Prompts(prompts, depth, direction))


# Single parts and combinations of them


def parallel_adapter(reduction: int = 8, scales=(0.1, 4.0)) -> Method:
    """Returns one adapter in place of DM-Adapter's mixture: the first row of the paper's ablation."""
    vision, text = (Adapter("beside_mlp", reduction, s) for s in scales)
    return Method("parallel_adapter", (vision,), (text,))


def sequential_adapter(reduction: int = 8, scale: float | str = 1.0) -> Method:
    """Returns adapters after attention and MLP (Houlsby et al., ICML 2019)."""
    scale = parse_scale(scale)
    parts = tuple(Adapter(slot, reduction, scale, norm=False) for slot in ("after_attn", "after_mlp"))
    return Method("sequential_adapter", parts, parts)


def parse_scale(scale: float | str) -> float | str:
    """Converts a scale from the command line to a number, except for words such as "learned"."""
    try:
        return float(scale)
    except ValueError:
        return scale


def lora(
    targets=("q", "v"), rank: int = 16, scale: float | str = 1.0, dora: bool = False, layers=(0, None)
) -> Method:
    """Returns low-rank updates of any of CLIP's dense layers (LoRA, ICLR 2022), or DoRA."""
    parts = (Lora(tuple(targets), rank, parse_scale(scale), dora, tuple(layers)),)
    return Method("lora", parts, parts)


def prefix(
    length: int = 10, gate: float | None = 10.0, vanilla: bool = False, scaled: bool = True, layers=(0, None)
) -> Method:
    """Returns prefix tokens alone: S-Prefix with its scalar initialized to `gate`, or a `vanilla` prefix."""
    parts = (Prefix(length, None if vanilla else gate, scaled, tuple(layers)),)
    return Method("prefix", parts, parts)


def prompts(length: int = 4, depth: int | None = None, direction: str = "both") -> Method:
    """Returns prompt tokens alone, mapped between the towers as `direction` says."""
    return Method("prompts", prompts=Prompts(length, depth, direction))


def lora_moe(
    targets=("fc", "proj"),
    rank: int = 8,
    num_experts: int = 6,
    top_k: int = 2,
    router: str = "input",
    scale: float = 1.0,
) -> Method:
    """Returns a mixture of low-rank experts on each target."""
    parts = (LoraMoe(tuple(targets), rank, num_experts, top_k, router, scale),)
    return Method("lora_moe", parts, parts)


def mixture(both=None, vision=None, text=None, prompts=None, tuned=()) -> Method:
    """Returns any combination of parts.

    Args:
      both: the parts of both towers under names that are free to choose, each a dict whose `part` is one of
        `PARTS` and whose other keys are that part's settings: `{"fine": {"part": "lora", "rank": 8}}`.
      vision: the parts of the vision tower alone.
      text: the parts of the text tower alone.
      prompts: the settings of `Prompts`.
      tuned: patterns for the weights of CLIP itself that train, see `Method`.

    Raises:
      UserError: a part or a setting is unknown.
    """
    shared = _parts("both", both)
    return Method(
        "mixture",
        shared + _parts("vision", vision),
        shared + _parts("text", text),
        _make_part(Prompts, "prompts", prompts) if prompts else None,
        tuple(tuned),
    )


def _parts(tower: str, settings_by_name: Mapping | None) -> tuple[Part, ...]:
    parts = []
    for name, settings in (settings_by_name or {}).items():
        where = f"method.{tower}.{name}"
        kind = settings.get("part") if isinstance(settings, Mapping) else settings
        if not isinstance(settings, Mapping) or kind not in PARTS:
            raise UserError(f"{where}: part={kind!r} is unknown: choose from {', '.join(PARTS)}")
        fields_of_part = {key: value for key, value in settings.items() if key != "part"}
        parts.append(_make_part(PARTS[kind], where, fields_of_part))
    return tuple(parts)


def _make_part(part_class: type[Part] | type[Prompts], where: str, settings: Mapping):
    """Returns an instance of a settings class; `where` begins the message of an error."""
    known = [field.name for field in fields(part_class)]
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1) or [", ".join(known)]
            raise UserError(f"{where}.{key} is unknown: did you mean {close[0]}?")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list | tuple) else value for key, value in settings.items()
    }
    return part_class(**values)


# Methods that tune CLIP's own weights, or nothing


def zero_shot() -> Method:
    """Returns CLIP without any training."""
    return Method("zero_shot")


# The last linear layer of SigLIP's vision and text tower.
SIGLIP_PROJECTIONS = r"(visual/pool/mlp|text)/proj/(kernel|bias)"


def linear_probe() -> Method:
    """Returns training of the last projection of each tower alone, on frozen features."""
    return Method("linear_probe", tuned=(rf"(visual|text)/proj|{SIGLIP_PROJECTIONS}",))


def bitfit() -> Method:
    """Returns training of the biases alone (BitFit, ACL 2022)."""
    return Method("bitfit", tuned=(".*/bias",))


def layer_norm() -> Method:
    """Returns training of the LayerNorms' scales and biases alone."""
    return Method("layer_norm", tuned=(r".*/ln_\w+/(scale|bias)",))


def full_finetune() -> Method:
    """Returns training of all of CLIP, from pretrained or from random weights."""
    return Method("full_finetune", tuned=(".*",))


def irra() -> Method:
    """Returns training of all of CLIP, with the losses SDM, ID and MLM (IRRA, CVPR 2023)."""
    return Method("irra", tuned=(".*",))


METHODS = {
    f.__name__: f
    for f in (
        *(dm_adapter, up_person, cskt),
        *(parallel_adapter, sequential_adapter, lora, prefix, prompts, lora_moe, mixture),
        *(zero_shot, linear_probe, bitfit, layer_norm, full_finetune, irra),
    )
}
