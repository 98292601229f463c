"""The methods side by side: which part sits in which slot of a block, with which settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """One bottleneck adapter behind a LayerNorm of its own; `scale` multiplies its output."""

    reduction: int = 8
    scale: float = 1.0


@dataclass(frozen=True)
class Moe:
    """A sparse mixture of adapters behind a LayerNorm of its own; `scale` multiplies its output."""

    num_experts: int = 6
    top_k: int = 2
    reduction: int = 8
    router: str = "blend"  # 'blend' (released code), 'sum' (paper), 'input' (no domain)
    scale: float = 1.0


@dataclass(frozen=True)
class Slots:
    """What every block of one tower carries beside CLIP's own layers."""

    beside_mlp: Adapter | Moe | None = None


@dataclass(frozen=True)
class Method:
    """A way to adapt CLIP. `trainable` names the collections that get gradients; all others are frozen."""

    name: str
    vision: Slots
    text: Slots
    trainable: tuple[str, ...]


ROUTERS = ("blend", "sum", "input")


def dm_adapter(
    num_experts: int = 6, top_k: int = 2, reduction: int = 8, router: str = "blend", scales=(0.1, 4.0)
) -> Method:
    """DM-Adapter (AAAI 2025): a mixture of adapters beside each MLP of both towers."""
    vision, text = (Slots(Moe(num_experts, top_k, reduction, router, scale)) for scale in scales)
    return Method("dm_adapter", vision, text, ("moe",))


def parallel_adapter(reduction: int = 8, scales=(0.1, 4.0)) -> Method:
    """One adapter in the mixture's place: the first row of DM-Adapter's ablation."""
    vision, text = (Slots(Adapter(reduction, scale)) for scale in scales)
    return Method("parallel_adapter", vision, text, ("adapter",))


def zero_shot() -> Method:
    """CLIP as it is."""
    return Method("zero_shot", Slots(), Slots(), ())


def full_finetune() -> Method:
    """CLIP with all its own weights trained; also how a CLIP is pre-trained from nothing."""
    return Method("full_finetune", Slots(), Slots(), ("params",))


METHODS = {
    "dm_adapter": dm_adapter,
    "parallel_adapter": parallel_adapter,
    "zero_shot": zero_shot,
    "full_finetune": full_finetune,
}
