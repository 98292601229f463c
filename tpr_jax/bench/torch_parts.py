"""The parts that the three methods add to CLIP, in plain PyTorch; `torch_models.py` has CLIP itself."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tpr_jax.models.config import ClipConfig
from tpr_jax.models.petl_config import Adapter, Lora, Moe, Part, Prefix, Prompts


def random_parameter(*shape: int) -> nn.Parameter:
    """Returns a parameter of small random values."""
    return nn.Parameter(0.02 * torch.randn(shape))


def scalar_parameter(value: float = 1.0) -> nn.Parameter:
    """Returns a parameter that is a scalar."""
    return nn.Parameter(torch.tensor(value))


class Bottleneck(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, width: int, reduction: int):
        super().__init__()
        self.down = nn.Linear(width, width // reduction)
        self.up = nn.Linear(width // reduction, width)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Applies both layers."""
        return self.up(F.relu(self.down(x)))


class ScaledAdapter(Bottleneck):
    """An adapter with a constant or learned scale and, where the method has one, a LayerNorm before it."""

    def __init__(self, part: Adapter, width: int):
        super().__init__(width, part.reduction)
        self.ln_3 = nn.LayerNorm(width) if part.norm else nn.Identity()
        self.scale = scalar_parameter() if part.scale == "learned" else part.scale

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Returns what is added beside the slot."""
        return self.scale * super().forward(self.ln_3(x))


class Mixture(nn.Module):
    """DM-Adapter's mixture: each expert computes only the tokens that the router sends to it."""

    def __init__(self, part: Moe, width: int):
        super().__init__()
        self.top_k, self.scale = part.top_k, part.scale
        self.ln_3 = nn.LayerNorm(width)
        self.input_gate = nn.Linear(width, part.num_experts, bias=False)
        self.task_gate = nn.Linear(width, part.num_experts, bias=False)
        self.task_param = random_parameter(width)
        self.alpha = scalar_parameter(0.5)
        self.experts = nn.ModuleList(Bottleneck(width, part.reduction) for _ in range(part.num_experts))

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Returns what is added beside the MLP, and keeps the load-balance term in `balance`."""
        tokens = self.ln_3(x).flatten(0, 1)
        logits = (1 - self.alpha) * self.input_gate(tokens) + self.alpha * self.task_gate(self.task_param)
        logits = logits.float()
        chosen_logits, chosen = logits.topk(self.top_k)
        weights = chosen_logits.softmax(-1)
        mixed = torch.zeros_like(tokens, dtype=torch.float32)
        for i, expert in enumerate(self.experts):
            rows, ranks = (chosen == i).nonzero(as_tuple=True)
            mixed.index_add_(0, rows, weights[rows, ranks, None] * expert(tokens[rows]))
        count = len(self.experts)
        choices = F.one_hot(chosen, count).float().sum(1).mean(0)
        self.balance = count * (logits.softmax(-1).mean(0) * choices).mean()
        return self.scale * mixed.view_as(x)


class KeyValueLora(nn.Module):
    """UP-Person's low-rank updates of the key and the value projection, each with a learned scale."""

    def __init__(self, part: Lora, width: int):
        super().__init__()
        self.a = nn.ParameterList(random_parameter(part.rank, width) for _ in "kv")
        self.b = nn.ParameterList(random_parameter(width, part.rank) for _ in "kv")
        self.scale = nn.ParameterList(scalar_parameter() for _ in "kv")

    def forward(self, x: Float[Tensor, "b l d"]) -> list[Float[Tensor, "b l d"]]:
        """Returns what is added to the keys and to the values."""
        parameters = zip(self.a, self.b, self.scale, strict=True)
        return [scale * F.linear(F.linear(x, a), b) for a, b, scale in parameters]


class KeyValuePrefix(nn.Module):
    """UP-Person's S-Prefix: learned keys and values after the first token.

    The gate multiplies the values, which equals multiplying the attention after the softmax.
    """

    def __init__(self, part: Prefix, width: int):
        super().__init__()
        self.key, self.value = random_parameter(part.length, width), random_parameter(part.length, width)
        self.key_scale, self.value_scale = scalar_parameter(), scalar_parameter()
        self.gate = scalar_parameter(part.gate or 1.0)

    def forward(
        self, k: Float[Tensor, "b l d"], v: Float[Tensor, "b l d"]
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m d"]]:
        """Returns the keys and values with the prefix."""
        key, value = self.key_scale * self.key, self.gate * self.value_scale * self.value
        return insert(k, key, 1), insert(v, value, 1)


def make_part(part: Part | None, width: int) -> nn.Module | None:
    """Returns the module of one of the parts that the three methods have; None for an empty slot."""
    match part:
        case None:
            return None
        case Adapter():
            return ScaledAdapter(part, width)
        case Moe():
            return Mixture(part, width)
        case Lora():
            return KeyValueLora(part, width)
        case Prefix():
            return KeyValuePrefix(part, width)
    raise TypeError(f"there is no PyTorch version of {part}")


def insert(
    x: Float[Tensor, "b l d"], tokens: Float[Tensor, "n d"], start: int, *, replaced: int = 0
) -> Tensor:
    """Inserts tokens at the position `start`, in place of as many as `replaced` says."""
    tokens = tokens.expand(len(x), -1, -1).to(x.dtype)
    return torch.cat([x[:, :start], tokens, x[:, start + replaced :]], 1)


def prefix_mask(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "l m"]:
    """Returns the causal mask with the prefix, which every query sees, after the first key."""
    causal = torch.ones(queries, queries, dtype=torch.bool, device=device).tril()
    prefix = torch.ones(queries, keys - queries, dtype=torch.bool, device=device)
    return torch.cat([causal[:, :1], prefix, causal[:, 1:]], 1)


class CrossPrompts(nn.Module):
    """CSKT's prompts of each tower and block, and the linear layers that map them to the other tower."""

    def __init__(self, part: Prompts, config: ClipConfig):
        super().__init__()
        v, w = config.vision_width, config.text_width
        depth = range(part.depth or min(config.vision_layers, config.text_layers))
        self.text = nn.ParameterList(random_parameter(part.length, w) for _ in depth)
        self.visual = nn.ParameterList(random_parameter(part.length, v) for _ in depth)
        self.to_visual = nn.ModuleList(nn.Linear(w, v) for _ in depth)
        self.to_text = nn.ModuleList(nn.Linear(v, w) for _ in depth)

    def forward(self) -> tuple[list[Float[Tensor, "n v"]], list[Float[Tensor, "n w"]]]:
        """Returns the prompts of the vision and of the text tower for each block."""
        layers = list(zip(self.text, self.visual, self.to_visual, self.to_text, strict=True))
        visual = [torch.cat([to_visual(t), v]) for t, v, to_visual, _ in layers]
        return visual, [torch.cat([t, to_text(v)]) for t, v, _, to_text in layers]
