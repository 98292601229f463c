"""What a block of CLIP can carry: the parts, their settings, the slots they fill, the check that they fit.

    h = x + after_attn(MHA(LN1(x) + beside_ln_1(x)))      lora_q, lora_k, lora_v, lora_out, prefix inside MHA
    y = h + after_mlp(MLP(LN2(h) + beside_ln_2(h))) + beside_mlp(h)           lora_fc, lora_proj inside MLP

where `after_*(z)` stands for `z + part(z)`. Every part covers the blocks of `layers`, a range `(first, end)`;
`None` as its end is the tower's last block.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tpr_jax.errors import UserError, shown

ADAPTER_SLOTS = ("beside_ln_1", "after_attn", "beside_ln_2", "beside_mlp", "after_mlp")
TARGETS = ("q", "k", "v", "out", "fc", "proj")
ROUTERS = ("blend", "sum", "input")
DIRECTIONS = ("both", "to_vision", "to_text", "none")
LARGEST_FLOAT = 3.4028234663852886e38  # of float32
MOST_EXPERTS = 1024  # each takes memory before anything can be said about the rest
Layers = tuple[int, int | None]


@dataclass(frozen=True)
class Adapter:
    """One bottleneck adapter, `scale * Up(ReLU(Down(u)))`.

    `norm`: u is the slot's input behind a LayerNorm of the part's own, else the input as it is. `scale` is a
    constant, or 'learned' (from 1). `init`: 'zero' starts without effect, 'normal' is N(0, 0.02).
    """

    slot: str = "beside_mlp"
    reduction: int = 8
    scale: float | str = 1.0
    norm: bool = True
    init: str = "zero"
    layers: Layers = (0, None)


@dataclass(frozen=True)
class Moe:
    """A sparse mixture of adapters behind a LayerNorm of its own; `scale` multiplies its output."""

    slot: str = "beside_mlp"
    num_experts: int = 6
    top_k: int = 2
    reduction: int = 8
    router: str = "blend"  # 'blend' (released code), 'sum' (paper), 'input' (no domain)
    scale: float = 1.0
    layers: Layers = (0, None)


@dataclass(frozen=True)
class Lora:
    """`W + scale * B A` for each target; `scale` is a constant, or 'learned' (from 1), one a target.

    `dora`: the result's columns keep W's norms times learned magnitudes (DoRA, ICML 2024).
    """

    targets: tuple[str, ...] = ("k", "v")
    rank: int = 32
    scale: float | str = "learned"
    dora: bool = False
    layers: Layers = (0, None)


@dataclass(frozen=True)
class LoraMoe:
    """`W x + scale * sum_e w_e B_e A_e x` for each target: a sparse mixture of low-rank experts.

    Each target has a router of its own, which reads what W reads.
    """

    targets: tuple[str, ...] = ("fc", "proj")
    rank: int = 8
    num_experts: int = 6
    top_k: int = 2
    router: str = "input"
    scale: float = 1.0
    layers: Layers = (0, None)


@dataclass(frozen=True)
class Prefix:
    """Learned key and value tokens of each block.

    `gate`: the first value of the learned scalar on the attention they get (S-Prefix); None: none (vanilla).
    `scaled`: keys and values each have a learned scalar besides.
    """

    length: int = 10
    gate: float | None = 10.0
    scaled: bool = True
    layers: Layers = (0, None)


@dataclass(frozen=True)
class Prompts:
    """Learned tokens in the sequence of both towers, `length` of a tower's own and, by `direction`, as many
    mapped from the other tower's.

    The first `depth` blocks have tokens of their own; None: as many as both towers have.
    """

    length: int = 4
    depth: int | None = None
    direction: str = "both"


Part = Adapter | Moe | Lora | LoraMoe | Prefix
PARTS = {"adapter": Adapter, "moe": Moe, "lora": Lora, "lora_moe": LoraMoe, "prefix": Prefix}
# The collection that holds a part's leaves; its name is the freezing rule.
COLLECTION = {Adapter: "adapter", Moe: "moe", Lora: "lora", LoraMoe: "moe", Prefix: "prefix"}
MIXTURES = (Moe, LoraMoe)


def slots_of(part: Part) -> tuple[str, ...]:
    """The names of the slots that a part fills."""
    if isinstance(part, Prefix):
        return ("prefix",)
    if isinstance(part, Lora | LoraMoe):
        return tuple(f"lora_{target}" for target in part.targets)
    return (part.slot,)


def slots_of_block(parts: tuple[Part, ...], block: int, layers: int) -> Mapping[str, Part]:
    """slot -> part, for one block of a tower of so many layers."""
    slots = {}
    for part in parts:
        first, end = part.layers
        if first <= block < (layers if end is None else end):
            slots |= dict.fromkeys(slots_of(part), part)
    return slots


def check_tower(parts: tuple[Part, ...], tower: str, layers: int, width: int, context: int) -> None:
    """Raises a UserError that names the first part that does not fit a tower of these sizes, and why."""
    taken: dict[tuple[str, int], Part] = {}
    for part in parts:
        kind = next(kind for kind in PARTS if isinstance(part, PARTS[kind]))
        name = f"{kind} of the {tower} tower"
        _check_numbers(part, name, width, context)
        _check_names(part, name)
        for block in _blocks(part, name, layers):
            for slot in slots_of(part):
                if (slot, block) in taken:
                    raise UserError(
                        f"{name}: slot '{slot}' of block {block} is taken by another part: choose other "
                        "slots, targets or layers"
                    )
                taken[slot, block] = part


def _blocks(part: Part, name: str, layers: int) -> range:
    """The blocks that a part covers."""
    ends = part.layers if isinstance(part.layers, tuple | list) else ()
    first, end = ends if len(ends) == 2 else (None, None)
    end = layers if end is None else end
    if not (_is_whole(first) and _is_whole(end) and 0 <= first < end <= layers):
        raise UserError(
            f"{name}: layers={shown(part.layers)} is no range within the tower's {layers} blocks: give "
            f"(first, end) with 0 <= first < end <= {layers}"
        )
    return range(first, end)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    """Whether a value is a number, not a bool, that float32 can hold."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= LARGEST_FLOAT  # not so of NaN


def _check_numbers(part: Part, name: str, width: int, context: int) -> None:
    for key in ("num_experts", "top_k", "reduction", "rank", "length"):
        value = getattr(part, key, 1)
        if not _is_whole(value) or value < 1:
            raise UserError(f"{name}: {key}={shown(value)} must be a whole number of at least 1")
    if (reduction := getattr(part, "reduction", 1)) > width:
        raise UserError(f"{name}: reduction={shown(reduction)} leaves nothing of a width of {width}")
    if (rank := getattr(part, "rank", 1)) > width:
        raise UserError(f"{name}: rank={shown(rank)} is above the width of {width}")
    if (experts := getattr(part, "num_experts", 1)) > MOST_EXPERTS:
        raise UserError(f"{name}: num_experts={shown(experts)} must be at most {MOST_EXPERTS}")
    if isinstance(part, MIXTURES) and part.top_k > part.num_experts:
        raise UserError(
            f"{name}: top_k={shown(part.top_k)} must lie between 1 and the {shown(part.num_experts)} experts"
        )
    if isinstance(part, Prefix) and part.length > context:
        raise UserError(
            f"{name}: a prefix of length={shown(part.length)} is longer than a text's {context} tokens"
        )
    if isinstance(part, Prefix) and part.gate is not None and not _is_number(part.gate):
        raise UserError(f"{name}: gate={shown(part.gate)} must be a number or None")
    for key in ("norm", "dora", "scaled"):
        if not isinstance(value := getattr(part, key, True), bool):
            raise UserError(f"{name}: {key}={shown(value)} must be True or False")
    scale = getattr(part, "scale", 1.0)
    learnable = isinstance(part, Adapter | Lora)
    if not _is_number(scale) and not (learnable and scale == "learned"):
        raise UserError(f"{name}: scale={shown(scale)} must be a number{' or learned' * learnable}")


def _check_names(part: Part, name: str) -> None:
    for key, known in {
        "slot": ADAPTER_SLOTS,
        "router": ROUTERS,
        "init": ("zero", "normal"),
    }.items():
        if (value := getattr(part, key, known[0])) not in known:
            raise UserError(f"{name}: {key}={shown(value)} is unknown: known are {', '.join(known)}")
    targets = getattr(part, "targets", ("k",))
    if not isinstance(targets, tuple | list):
        raise UserError(f"{name}: targets={shown(targets)} must be a list of some of {', '.join(TARGETS)}")
    for target in targets:
        if target not in TARGETS:
            raise UserError(f"{name}: target {shown(target)} is unknown: known are {', '.join(TARGETS)}")
    if not targets or len(set(targets)) < len(targets):
        raise UserError(
            f"{name}: targets={shown(targets)} must name each of its targets once, and one at least"
        )


def check_prompts(prompts: Prompts, layers: tuple[int, int], context: int) -> None:
    """Raises a UserError if the prompts do not fit towers of so many layers and texts of `context` tokens."""
    depth, length = prompts.depth, prompts.length
    if prompts.direction not in DIRECTIONS:
        known = ", ".join(DIRECTIONS)
        raise UserError(f"prompts: direction={shown(prompts.direction)} is unknown: known are {known}")
    if depth is not None and not (_is_whole(depth) and 1 <= depth <= min(layers)):
        raise UserError(f"prompts: depth={shown(depth)} must lie between 1 and the {min(layers)} blocks")
    if not _is_whole(length) or length < 1 or text_tokens(prompts) > context - 2:
        raise UserError(
            f"prompts: length={shown(length)} must be at least 1 and leave room for words among the text's "
            f"{context} tokens"
        )


def text_tokens(prompts: Prompts | None) -> int:
    """How many prompt tokens a text gets."""
    if prompts is None:
        return 0
    return prompts.length * (2 if prompts.direction in ("both", "to_text") else 1)
