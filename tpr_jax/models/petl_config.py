"""The PEFT parts that a CLIP block can hold: their settings, the slots they fill, and validation.

    h = x + after_attn(MHA(LN1(x) + beside_ln_1(x)))      lora_q, lora_k, lora_v, lora_out, prefix inside MHA
    y = h + after_mlp(MLP(LN2(h) + beside_ln_2(h))) + beside_mlp(h)           lora_fc, lora_proj inside MLP

Here `after_*(z)` stands for `z + part(z)`. Every part covers the blocks in `layers`, a half-open range
`(first, end)`; an `end` of `None` is the tower's number of blocks.

Each settings class tells the rest of the package what it needs to know about its part:

    kind: The part's name in a config and in a saved `config.json`.
    collection: The Flax collection of its variables, which also decides that they are trained.
    is_mixture: Whether the part routes tokens to experts, with settings `num_experts`, `top_k` and `router`.
    learnable_scale: Whether `scale` may be "learned".
    slots: The slots that the part fills.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tpr_jax.errors import UserError, shown

ADAPTER_SLOTS = ("beside_ln_1", "after_attn", "beside_ln_2", "beside_mlp", "after_mlp")
TARGETS = ("q", "k", "v", "out", "fc", "proj")
ROUTERS = ("blend", "sum", "input")
DIRECTIONS = ("both", "to_vision", "to_text", "none")
LARGEST_FLOAT = 3.4028234663852886e38  # the largest finite float32
MOST_EXPERTS = 1024  # a bound on memory that is checked before anything is allocated
Layers = tuple[int, int | None]


@dataclass(frozen=True)
class Adapter:
    """Settings of a bottleneck adapter, `scale * Up(ReLU(Down(u)))`.

    Attributes:
      slot: one of `ADAPTER_SLOTS`.
      reduction: the tower's width divided by the bottleneck's.
      scale: a constant, or "learned" (initialized to 1).
      norm: whether u is the slot's input after a LayerNorm of the part's own, instead of the input itself.
      init: "zero" starts without effect, "normal" draws both kernels from N(0, 0.02^2).
      layers: the blocks covered.
    """

    slot: str = "beside_mlp"
    reduction: int = 8
    scale: float | str = 1.0
    norm: bool = True
    init: str = "zero"
    layers: Layers = (0, None)

    kind: ClassVar[str] = "adapter"
    collection: ClassVar[str] = "adapter"
    is_mixture: ClassVar[bool] = False
    learnable_scale: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that the part fills."""
        return (self.slot,)


@dataclass(frozen=True)
class Moe:
    """Settings of a sparse mixture of adapters after a LayerNorm of its own.

    Attributes:
      slot: one of `ADAPTER_SLOTS`.
      num_experts: the number of adapters.
      top_k: the number of experts that each token is routed to.
      reduction: the tower's width divided by each adapter's bottleneck.
      router: "blend" (the released code), "sum" (the paper) or "input" (no domain prompt).
      scale: a constant that multiplies the output.
      layers: the blocks covered.
    """

    slot: str = "beside_mlp"
    num_experts: int = 6
    top_k: int = 2
    reduction: int = 8
    router: str = "blend"
    scale: float = 1.0
    layers: Layers = (0, None)

    kind: ClassVar[str] = "moe"
    collection: ClassVar[str] = "moe"
    is_mixture: ClassVar[bool] = True
    learnable_scale: ClassVar[bool] = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that the part fills."""
        return (self.slot,)


@dataclass(frozen=True)
class Lora:
    """Settings of low-rank updates, `W + scale * B A` for each target.

    Attributes:
      targets: some of `TARGETS`.
      rank: the rank of each update.
      scale: a constant, or "learned" (initialized to 1, one scale for each target).
      dora: whether the updated columns keep the norms of W's, times learned magnitudes (DoRA, ICML 2024).
      layers: the blocks covered.
    """

    targets: tuple[str, ...] = ("k", "v")
    rank: int = 32
    scale: float | str = "learned"
    dora: bool = False
    layers: Layers = (0, None)

    kind: ClassVar[str] = "lora"
    collection: ClassVar[str] = "lora"
    is_mixture: ClassVar[bool] = False
    learnable_scale: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that the part fills."""
        return tuple(f"lora_{target}" for target in self.targets)


@dataclass(frozen=True)
class LoraMoe:
    """Settings of a sparse mixture of low-rank experts, `W x + scale * sum_e w_e B_e A_e x` for each target.

    Each target has a router of its own, which reads the input of W.

    Attributes:
      targets: some of `TARGETS`.
      rank: the rank of each expert.
      num_experts: the number of experts for each target.
      top_k: the number of experts that each token is routed to.
      router: as in `Moe`.
      scale: a constant that multiplies the output.
      layers: the blocks covered.
    """

    targets: tuple[str, ...] = ("fc", "proj")
    rank: int = 8
    num_experts: int = 6
    top_k: int = 2
    router: str = "input"
    scale: float = 1.0
    layers: Layers = (0, None)

    kind: ClassVar[str] = "lora_moe"
    collection: ClassVar[str] = "moe"
    is_mixture: ClassVar[bool] = True
    learnable_scale: ClassVar[bool] = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that the part fills."""
        return tuple(f"lora_{target}" for target in self.targets)


@dataclass(frozen=True)
class Prefix:
    """Settings of learned key and value tokens in each block.

    Attributes:
      length: the number of tokens.
      gate: the initial value of the learned scalar on the attention that the prefix receives (S-Prefix), or
        None for a vanilla prefix without it.
      scaled: whether keys and values also have a learned scalar each.
      layers: the blocks covered.
    """

    length: int = 10
    gate: float | None = 10.0
    scaled: bool = True
    layers: Layers = (0, None)

    kind: ClassVar[str] = "prefix"
    collection: ClassVar[str] = "prefix"
    is_mixture: ClassVar[bool] = False
    learnable_scale: ClassVar[bool] = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that the part fills."""
        return ("prefix",)


@dataclass(frozen=True)
class Prompts:
    """Settings of learned tokens in the sequences of both towers.

    Attributes:
      length: the number of tokens that each tower owns; a tower gets an equal number mapped from the
        other tower's, where `direction` says so.
      depth: the number of first blocks that have tokens of their own; None is the smaller tower's number of
        blocks.
      direction: "both", "to_vision", "to_text" or "none": which towers get mapped tokens.
    """

    length: int = 4
    depth: int | None = None
    direction: str = "both"


Part = Adapter | Moe | Lora | LoraMoe | Prefix
PARTS: dict[str, type[Part]] = {part.kind: part for part in typing.get_args(Part)}


def slots_of_block(parts: tuple[Part, ...], block: int, layers: int) -> Mapping[str, Part]:
    """Returns the filled slots of one block, slot -> part, in a tower of `layers` blocks."""
    slots = {}
    for part in parts:
        first, end = part.layers
        if first <= block < (layers if end is None else end):
            slots |= dict.fromkeys(part.slots, part)
    return slots


def check_tower(parts: tuple[Part, ...], tower: str, *, layers: int, width: int, context: int) -> None:
    """Checks that parts fit a tower.

    Args:
      parts: the tower's parts.
      tower: the tower's name in messages, "vision" or "text".
      layers: the tower's number of blocks.
      width: the tower's width.
      context: the text tower's maximum number of tokens.

    Raises:
      UserError: a part does not fit; the message names the first one and the reason.
    """
    filled: set[tuple[str, int]] = set()
    for part in parts:
        name = f"{part.kind} of the {tower} tower"
        _check_counts(part, name, width, context)
        _check_values(part, name)
        _check_names(part, name)
        for block in _blocks(part, name, layers):
            for slot in part.slots:
                if (slot, block) in filled:
                    raise UserError(
                        f"{name}: slot '{slot}' of block {block} is taken by another part: choose other "
                        "slots, targets or layers"
                    )
                filled.add((slot, block))


def _blocks(part: Part, name: str, layers: int) -> range:
    """Returns the blocks that a part covers."""
    ends = part.layers if isinstance(part.layers, tuple | list) else ()
    first, end = ends if len(ends) == 2 else (None, None)
    end = layers if end is None else end
    if not (_is_integer(first) and _is_integer(end) and 0 <= first < end <= layers):
        raise UserError(
            f"{name}: layers={shown(part.layers)} is not a range within the tower's {layers} blocks: give "
            f"(first, end) with 0 <= first < end <= {layers}"
        )
    return range(first, end)


def _is_integer(value) -> typing.TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float32(value) -> bool:
    """Returns whether a value is a number, not a bool, within float32's finite range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= LARGEST_FLOAT  # False for NaN


def _check_counts(part: Part, name: str, width: int, context: int) -> None:
    for key in ("num_experts", "top_k", "reduction", "rank", "length"):
        value = getattr(part, key, 1)
        if not _is_integer(value) or value < 1:
            raise UserError(f"{name}: {key}={shown(value)} must be a whole number of at least 1")
    for key in ("reduction", "rank"):
        if (value := getattr(part, key, 1)) > width:
            raise UserError(f"{name}: {key}={shown(value)} exceeds the tower's width of {width}")
    if (experts := getattr(part, "num_experts", 1)) > MOST_EXPERTS:
        raise UserError(f"{name}: num_experts={shown(experts)} must be at most {MOST_EXPERTS}")
    if part.is_mixture and (top_k := getattr(part, "top_k", 1)) > experts:
        raise UserError(f"{name}: top_k={shown(top_k)} must lie between 1 and the {shown(experts)} experts")
    if (length := getattr(part, "length", 1)) > context:
        raise UserError(f"{name}: length={shown(length)} exceeds a text's {context} tokens")


def _check_values(part: Part, name: str) -> None:
    gate = getattr(part, "gate", None)
    if gate is not None and not _is_float32(gate):
        raise UserError(f"{name}: gate={shown(gate)} must be a number or None")
    for key in ("norm", "dora", "scaled"):
        if not isinstance(value := getattr(part, key, True), bool):
            raise UserError(f"{name}: {key}={shown(value)} must be True or False")
    scale = getattr(part, "scale", 1.0)
    if not _is_float32(scale) and not (part.learnable_scale and scale == "learned"):
        raise UserError(
            f"{name}: scale={shown(scale)} must be a number{' or learned' * part.learnable_scale}"
        )


def _check_names(part: Part, name: str) -> None:
    for key, known in {"slot": ADAPTER_SLOTS, "router": ROUTERS, "init": ("zero", "normal")}.items():
        if (value := getattr(part, key, known[0])) not in known:
            raise UserError(f"{name}: {key}={shown(value)} is unknown: choose from {', '.join(known)}")
    targets = getattr(part, "targets", ("k",))
    if not isinstance(targets, tuple | list):
        raise UserError(f"{name}: targets={shown(targets)} must be a list of some of {', '.join(TARGETS)}")
    for target in targets:
        if target not in TARGETS:
            raise UserError(f"{name}: target {shown(target)} is unknown: choose from {', '.join(TARGETS)}")
    if not targets or len(set(targets)) < len(targets):
        raise UserError(f"{name}: targets={shown(targets)} must name at least one target, each only once")


def check_prompts(prompts: Prompts, layers: tuple[int, int], context: int) -> None:
    """Checks that prompts fit both towers.

    Args:
      prompts: the settings.
      layers: the numbers of blocks of the vision and the text tower.
      context: the text tower's maximum number of tokens.

    Raises:
      UserError: they do not fit.
    """
    depth, length = prompts.depth, prompts.length
    if prompts.direction not in DIRECTIONS:
        known = ", ".join(DIRECTIONS)
        raise UserError(f"prompts: direction={shown(prompts.direction)} is unknown: choose from {known}")
    if depth is not None and not (_is_integer(depth) and 1 <= depth <= min(layers)):
        raise UserError(f"prompts: depth={shown(depth)} must lie between 1 and the {min(layers)} blocks")
    if not _is_integer(length) or length < 1 or text_tokens(prompts) > context - 2:
        raise UserError(
            f"prompts: length={shown(length)} must be at least 1 and leave room for words among the text's "
            f"{context} tokens"
        )


def text_tokens(prompts: Prompts | None) -> int:
    """Returns the number of prompt tokens in each text's sequence."""
    if prompts is None:
        return 0
    return prompts.length * (2 if prompts.direction in ("both", "to_text") else 1)
