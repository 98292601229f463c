"""How many floating-point operations a method needs: its products, counted from the formulas.

The least that forward and backward take, against which `aot` holds what the compiler makes of it. A frozen
weight needs no gradient; nor does what nothing trained comes before. Of a tower's last block only the token
that is read goes on behind keys and values; of a mixture only the chosen experts. Sums, activations and
softmax are not counted (1 % of ViT-B/16), attention is not halved for a causal mask.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from tpr_jax.models.config import ClipConfig
from tpr_jax.models.heads import NO_HEADS, Heads
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import MIXTURES, Adapter, Lora, LoraMoe, Moe, Part, slots_of_block


class Product(NamedTuple):
    """A product of two arrays: what it takes forward, and for the gradients of its left and right operand."""

    name: str
    forward: float
    left: float
    right: float


def product(name: str, forward: float, left: float | bool, right: float | bool) -> Product:
    """`left` and `right`: whether, or which share of, the operand's gradient is needed."""
    return Product(name, forward, forward * left, forward * right)


def total(products: Collection[Product]) -> dict[str, float]:
    """`forward`, `backward` and their sum `total`."""
    forward = sum(p.forward for p in products)
    backward = sum(p.left + p.right for p in products)
    return {"forward": forward, "backward": backward, "total": forward + backward}


def train_step(
    config: ClipConfig,
    method: Method,
    batch_size: int,
    losses: Collection[str] = ("sdm",),
    heads: Heads = NO_HEADS,
    length: int | None = None,
    all_experts: bool = False,
) -> list[Product]:
    """The products of one step: both towers forwards and backwards, and the losses named.

    `length` is that of the captions' ids, by default all that the text tower takes. With `all_experts` a
    mixture computes each of its experts for each token, which is how `petl.moe` does it where they are few.
    """
    mlm = "mlm" in losses
    text = functools.partial(_tower, config, method, "text", batch_size, length, all_experts, True)
    found = [
        *_tower(config, method, "vision", batch_size, None, all_experts, True, every_token=mlm),
        *text(),
        *_prompts(config, method),
    ]
    e = config.embed_dim
    for loss in losses:
        if loss == "mlm":
            found += text(every_token=True)
            found += _masked_words(config, heads, batch_size, _text_length(config, method, length))
        elif loss == "id":
            found.append(product("loss id", 2 * 2.0 * batch_size * e * heads.num_classes, True, True))
        elif loss != "balance":
            times = 2 if loss == "cmpm" else 1  # each direction has features of another length
            found.append(product(f"loss {loss}", times * 2.0 * batch_size**2 * e, True, True))
    return found


def encode(
    config: ClipConfig,
    method: Method,
    tower: str,
    batch_size: int,
    length: int | None = None,
    all_experts: bool = False,
) -> list[Product]:
    """The products of features alone, of `tower` 'vision' or 'text'."""
    found = _tower(config, method, tower, batch_size, length, all_experts, statistics=False)
    return [product(p.name, p.forward, False, False) for p in (*found, *_prompts(config, method))]


def _tower(
    c: ClipConfig,
    method: Method,
    tower: str,
    b: int,
    length: int | None,
    all_experts: bool,
    statistics: bool,
    every_token: bool = False,
) -> Iterator[Product]:
    """Of `b` images, or texts of `length` ids; `every_token` of the last block is read, or only one. With
    `statistics` its routers, if it has any, see all."""
    vision = tower == "vision"
    prefix = "visual" if vision else "text"
    d, layers, width = (getattr(c, f"{tower}_{name}") for name in ("width", "layers", "mlp"))
    parts = method.vision if vision else method.text

    def tuned(*paths: str) -> bool:
        return any(re.fullmatch(pattern, f"{prefix}/{path}") for path in paths for pattern in method.tuned)

    own = _own_tokens(method, tower)
    if vision:
        patches = c.grid[0] * c.grid[1]
        pixels = 3 * c.patch_size**2
        yield product("patches", 2.0 * b * patches * pixels * d, False, tuned("conv1/kernel"))
        tokens = 1 + patches + own
        first = ("conv1/kernel", "class_embedding", "positional_embedding", "ln_pre/scale", "ln_pre/bias")
    else:
        tokens = _text_length(c, method, length)
        first = ("token_embedding", "positional_embedding")
    moves = method.prompts is not None or tuned(*first)
    for i in range(layers):
        slots = slots_of_block(parts, i, layers)
        one = None if every_token or i < layers - 1 else _one_token_from(slots, statistics)
        block = _Block(f"block_{i}", slots, b, tokens, one, all_experts, statistics, tuned)
        found, moves = block.products(d, width, moves)
        yield from found
    norm = "ln_post" if vision else "ln_final"
    moves = moves or tuned(f"{norm}/scale", f"{norm}/bias")
    rows = b * (tokens if every_token else 1)
    yield product("proj", 2.0 * rows * d * c.embed_dim, moves, tuned("proj"))


def _one_token_from(slots: Mapping[str, Part], statistics: bool) -> str | None:
    """From where on the last block needs one token only: 'attention', of whose others it needs keys and
    values; 'mlp', where routers count what all tokens bring behind the attention; or nowhere."""
    routed = {slot for slot, part in slots.items() if isinstance(part, MIXTURES)} if statistics else set()
    if routed <= {"beside_ln_1", "lora_q", "lora_k", "lora_v"}:
        return "attention"
    return None if routed & {"lora_proj", "after_mlp"} else "mlp"


class _Block(NamedTuple):
    """One block of a tower; `one` as `_one_token_from` says."""

    name: str
    slots: Mapping[str, Part]
    b: int
    tokens: int
    one: str | None
    all_experts: bool
    statistics: bool
    tuned: Callable[..., bool]

    def products(self, d: int, width: int, moves: bool) -> tuple[list[Product], bool]:
        """All products of the block, and whether what it gives moves, as what comes into it `moves`."""
        found: list[Product] = []
        l, n = self.tokens, self.name
        r = 1 if self.one == "attention" else l  # tokens that ask
        m = 1 if self.one else l  # tokens behind the attention

        def has(*slots):
            return any(self.slots.get(slot) is not None for slot in slots)

        def trains(*paths):
            return self.tuned(*(f"{n}/{path}" for path in paths))

        def put(name, rows, inputs, outputs, left, right):
            found.append(product(f"{n}/{name}", 2.0 * self.b * rows * inputs * outputs, left, right))

        def part(slot, rows, left):
            self._adapter(put, slot, rows, d, left)

        def dense(name, slot, rows, inputs, outputs, left):
            """A product of CLIP's with what low-rank parts add to it; whether its result moves."""
            kernel = f"{name}/kernel"
            put(f"{name} {slot}", rows, inputs, outputs, left, trains(kernel))
            self._low_rank(put, f"lora_{slot}", rows, inputs, outputs, left)
            return left or trains(kernel, f"{name}/bias") or has(f"lora_{slot}")

        part("beside_ln_1", l, moves)
        u = moves or trains("ln_1/scale", "ln_1/bias") or has("beside_ln_1")
        q = dense("attn/qkv", "q", r, d, d, u)
        k, v = (dense("attn/qkv", slot, l, d, d, u) for slot in "kv")
        more = self.slots["prefix"].length if has("prefix") else 0
        keys, share = l + more, more / (l + more)
        put("scores", r, d, keys, q, True if k else share)
        put("values", r, keys, d, q or k or has("prefix"), True if v else share)
        z = dense("attn/out", "out", r, d, d, q or k or v or has("prefix"))
        part("after_attn", m, z)
        h = moves or z or has("after_attn")
        part("beside_ln_2", m, h)
        u = h or trains("ln_2/scale", "ln_2/bias") or has("beside_ln_2")
        hidden = dense("mlp/fc", "fc", m, d, width, u)
        z = dense("mlp/proj", "proj", m, width, d, hidden)
        part("after_mlp", m, z)
        part("beside_mlp", m, h)
        return found, h or z or has("after_mlp", "beside_mlp")

    def _adapter(self, put, slot, rows, d, left):
        """An adapter, or a mixture of them."""
        spec = self.slots.get(slot)
        if isinstance(spec, Adapter):
            r = d // spec.reduction
            put(f"{slot} down", rows, d, r, left or spec.norm, True)
            put(f"{slot} up", rows, r, d, True, True)
        if isinstance(spec, Moe):
            r, count = d // spec.reduction, spec.num_experts if self.all_experts else spec.top_k
            seen = self.tokens if self.statistics else rows
            put(f"{slot} router", seen, d, spec.num_experts, True, True)
            put(f"{slot} down", rows, d, count * r, True, True)
            put(f"{slot} up", rows, count * r, d, True, True)
            if self.all_experts:
                put(f"{slot} up bias", rows, count, d, True, True)

    def _low_rank(self, put, slot, rows, inputs, outputs, left):
        spec = self.slots.get(slot)
        if isinstance(spec, Lora):
            put(f"{slot} a", rows, inputs, spec.rank, left, True)
            put(f"{slot} b", rows, spec.rank, outputs, True, True)
        if isinstance(spec, LoraMoe):
            rank = spec.rank * (spec.num_experts if self.all_experts else spec.top_k)
            seen = self.tokens if self.statistics else rows
            put(f"{slot} router", seen, inputs, spec.num_experts, left, True)
            put(f"{slot} a", rows, inputs, rank, left, True)
            put(f"{slot} b", rows, rank, outputs, True, True)


def _text_length(c: ClipConfig, method: Method, length: int | None) -> int:
    """How long the text tower's sequence is for captions of `length` ids, its prompt tokens included."""
    return min((length or c.context_length) + _own_tokens(method, "text"), c.context_length)


def _own_tokens(method: Method, tower: str) -> int:
    """How many prompt tokens a tower's sequence gets."""
    if method.prompts is None:
        return 0
    mapped = ("both", "to_vision" if tower == "vision" else "to_text")
    return method.prompts.length * (2 if method.prompts.direction in mapped else 1)


def _prompts(c: ClipConfig, method: Method) -> Iterator[Product]:
    """The maps of prompts from tower to tower, once for the whole batch."""
    if (spec := method.prompts) is None:
        return
    depth = spec.depth or min(c.vision_layers, c.text_layers)
    for name in ("to_vision", "to_text"):
        if spec.direction in ("both", name):
            forward = 2.0 * depth * spec.length * c.vision_width * c.text_width
            yield product(f"prompts {name}", forward, True, True)


def _masked_words(c: ClipConfig, heads: Heads, b: int, length: int) -> Iterator[Product]:
    """IRRA's head (`models.heads.MaskedWords`), all of it trained, for all places of a caption."""
    e, depth, n = c.embed_dim, heads.mlm_depth, 1 + c.grid[0] * c.grid[1]

    def of(name, *sizes):
        forward = 2.0 * b
        for size in sizes:
            forward *= size
        return product(f"mlm {name}", forward, True, True)

    yield of("cross q, out", length, e, 2 * e)
    yield of("cross k, v", n, e, 2 * e)
    yield of("cross scores, values", length, n, 2 * e)
    yield of("blocks", depth, length, e, 12 * e)
    yield of("blocks' scores, values", depth, length, length, 2 * e)
    yield of("dense", length, e, e)
    yield of("words", length, e, c.vocab_size)
