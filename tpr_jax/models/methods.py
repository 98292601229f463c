"""The methods side by side: which parts sit in which slots of which tower, with which settings."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.petl_config import (
    COLLECTION,
    MIXTURES,
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
    """A way to adapt CLIP: parts in each tower, prompts, and patterns of CLIP's own weights that train.

    A pattern matches a whole path such as `visual/block_0/mlp/fc/bias`.
    """

    name: str
    vision: tuple[Part, ...] = ()
    text: tuple[Part, ...] = ()
    prompts: Prompts | None = None
    tuned: tuple[str, ...] = ()

    @property
    def trainable(self) -> tuple[str, ...]:
        """The collections that get gradients; `params` if some of CLIP's own weights do."""
        names = {COLLECTION[type(part)] for part in (*self.vision, *self.text)}
        names |= {"prompt"} if self.prompts else set()
        return tuple(sorted(names | ({"params"} if self.tuned else set())))

    @property
    def mixtures(self) -> tuple[Part, ...]:
        """Its mixtures of experts."""
        return tuple(part for part in (*self.vision, *self.text) if isinstance(part, MIXTURES))


def check(method: Method, config: ClipConfig) -> None:
    """Raises a UserError that names the first part that does not fit a CLIP of these sizes."""
    context = config.context_length
    check_tower(method.vision, "vision", config.vision_layers, config.vision_width, context)
    check_tower(method.text, "text", config.text_layers, config.text_width, context)
    for pattern in method.tuned:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"tuned: {pattern!r} is no regular expression: {error}") from error
    if method.prompts:
        check_prompts(method.prompts, (config.vision_layers, config.text_layers), context)


# The three methods


def dm_adapter(
    num_experts: int = 6, top_k: int = 2, reduction: int = 8, router: str = "blend", scales=(0.1, 4.0)
) -> Method:
    """DM-Adapter (AAAI 2025): a mixture of adapters beside each MLP of both towers."""
    vision, text = (Moe("beside_mlp", num_experts, top_k, reduction, router, s) for s in scales)
    return Method("dm_adapter", (vision,), (text,))


def up_person(
    rank: int = 32,
    prefix: int = 10,
    reduction: int = 8,
    version: str = "paper",
    use=("prefix", "lora", "adapter"),
    vanilla: bool = False,
    depth_lora: int | None = None,
    depth_prefix: int | None = None,
    depth_adapter: int = 0,
) -> Method:
    """UP-Person (2025): S-Prefix, LoRA on keys and values, and L-Adapters beside both LayerNorms.

    `version`: 'paper' starts S-Prefix's scalar at 10, 'released' at 100. `use` names the parts kept and
    `vanilla` takes a prefix without S-Prefix's scalar, for the paper's ablations.
    """
    if version not in ("paper", "released"):
        raise UserError(f"version={version!r} is unknown: known are paper, released")
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
    """CSKT (ICASSP 2024): bidirectional prompts, and an adapter beside each MLP of both towers."""
    vision, text = (Adapter("beside_mlp", reduction, s, init="normal") for s in scales)
    return Method("cskt", (vision,), (text,), Prompts(prompts, depth, direction))


# Single parts and mixtures of them


def parallel_adapter(reduction: int = 8, scales=(0.1, 4.0)) -> Method:
    """One adapter in DM-Adapter's mixture's place: the first row of its ablation."""
    vision, text = (Adapter("beside_mlp", reduction, s) for s in scales)
    return Method("parallel_adapter", (vision,), (text,))


def sequential_adapter(reduction: int = 8, scale: float | str = 1.0) -> Method:
    """Adapters behind attention and MLP (Houlsby et al., ICML 2019)."""
    scale = number_in(scale)
    parts = tuple(Adapter(slot, reduction, scale, norm=False) for slot in ("after_attn", "after_mlp"))
    return Method("sequential_adapter", parts, parts)


def number_in(scale: float | str) -> float | str:
    """A scale as the command line gives it, where 'learned' makes it a text: '0.5' is a number."""
    try:
        return float(scale)
    except ValueError:
        return scale


def lora(
    targets=("q", "v"), rank: int = 16, scale: float | str = 1.0, dora: bool = False, layers=(0, None)
) -> Method:
    """Low-rank updates of any of CLIP's products (LoRA, ICLR 2022), as DoRA too."""
    parts = (Lora(tuple(targets), rank, number_in(scale), dora, tuple(layers)),)
    return Method("lora", parts, parts)


def prefix(
    length: int = 10, gate: float | None = 10.0, vanilla: bool = False, scaled: bool = True, layers=(0, None)
) -> Method:
    """Prefix tokens alone: S-Prefix, its scalar from `gate`; the `vanilla` kind has none."""
    parts = (Prefix(length, None if vanilla else gate, scaled, tuple(layers)),)
    return Method("prefix", parts, parts)


def prompts(length: int = 4, depth: int | None = None, direction: str = "both") -> Method:
    """Prompt tokens alone, with maps one way, both ways or none."""
    return Method("prompts", prompts=Prompts(length, depth, direction))


def lora_moe(
    targets=("fc", "proj"),
    rank: int = 8,
    num_experts: int = 6,
    top_k: int = 2,
    router: str = "input",
    scale: float = 1.0,
) -> Method:
    """A mixture of low-rank experts on each target."""
    parts = (LoraMoe(tuple(targets), rank, num_experts, top_k, router, scale),)
    return Method("lora_moe", parts, parts)


def mixture(both=None, vision=None, text=None, prompts=None, tuned=()) -> Method:
    """Any parts together.

    `both`, `vision` and `text` hold parts under names of one's own, each a dict whose `part` is one of
    `PARTS` and whose other keys are that part's settings: `{"fine": {"part": "lora", "rank": 8}}`.
    `prompts` holds the settings of `Prompts`; `tuned` patterns of CLIP's own weights.
    """
    shared = _parts("both", both)
    return Method(
        "mixture",
        shared + _parts("vision", vision),
        shared + _parts("text", text),
        _filled(Prompts, "prompts", prompts) if prompts else None,
        tuple(tuned),
    )


def _parts(tower: str, named: Mapping | None) -> tuple[Part, ...]:
    parts = []
    for name, settings in (named or {}).items():
        where = f"method.{tower}.{name}"
        if not isinstance(settings, Mapping) or settings.get("part") not in PARTS:
            kind = settings.get("part") if isinstance(settings, Mapping) else settings
            raise UserError(f"{where}: part={kind!r} is unknown: known are {', '.join(PARTS)}")
        own = {key: value for key, value in settings.items() if key != "part"}
        parts.append(_filled(PARTS[settings["part"]], where, own))
    return tuple(parts)


def _filled(kind: type, where: str, settings: Mapping):
    known = [field.name for field in fields(kind)]
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1) or [", ".join(known)]
            raise UserError(f"{where}.{key} is unknown: did you mean {close[0]}?")
    return kind(**{k: tuple(v) if isinstance(v, list | tuple) else v for k, v in settings.items()})


# CLIP's own weights


def zero_shot() -> Method:
    """CLIP as it is."""
    return Method("zero_shot")


def linear_probe() -> Method:
    """Only the last linear map of each tower, on features that stay frozen."""
    return Method("linear_probe", tuned=("(visual|text)/proj",))


def bitfit() -> Method:
    """Only the biases (BitFit, ACL 2022)."""
    return Method("bitfit", tuned=(".*/bias",))


def layer_norm() -> Method:
    """Only the LayerNorms' scales and biases."""
    return Method("layer_norm", tuned=(r".*/ln_\w+/(scale|bias)",))


def full_finetune() -> Method:
    """All of CLIP; also how a CLIP is pre-trained from nothing."""
    return Method("full_finetune", tuned=(".*",))


def irra() -> Method:
    """All of CLIP, with the losses SDM, ID and MLM (IRRA, CVPR 2023)."""
    return Method("irra", tuned=(".*",))


METHODS = {
    f.__name__: f
    for f in (
        *(dm_adapter, up_person, cskt),
        *(parallel_adapter, sequential_adapter, lora, prefix, prompts, lora_moe, mixture),
        *(zero_shot, linear_probe, bitfit, layer_norm, full_finetune, irra),
    )
}
