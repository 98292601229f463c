"""Counts the floating-point operations of a method's matrix products from their formulas.

This is the analytic minimum of the forward and backward pass, with which `aot` compares compiled programs. A
frozen weight needs no gradient, and neither does an activation that no trained weight precedes. In a tower's
last block only the token that is read goes beyond keys and values; in a mixture only the selected experts are
computed. Sums, activations and softmax are not counted (1 % of ViT-B/16), and attention is not halved for a
causal mask.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from tpr_jax.models.config import NO_HEADS, ClipConfig, Heads
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Part, Prefix, slots_of_block


class Product(NamedTuple):
    """The operations of a matrix product: forward, and for the gradients of its left and right operand."""

    name: str
    forward: float
    left: float
    right: float


def product(name: str, forward: float, left: float | bool, right: float | bool) -> Product:
    """Returns a product; `left` and `right` are the fraction of the operand's gradient that is needed."""
    return Product(name, forward, forward * left, forward * right)


def total(products: Collection[Product]) -> dict[str, float]:
    """Sums the operations of products: `forward`, `backward` and both in `total`."""
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
    *,
    all_experts: bool = False,
    captions_per_image: int = 1,
    kept_patches: int | None = None,
) -> list[Product]:
    """Returns the products of one step: both towers and the losses, forward and backward.

    Args:
      config: CLIP's sizes.
      method: the parts and prompts.
      batch_size: the number of images.
      losses: the names of the losses.
      heads: the sizes of the losses' heads.
      length: the number of ids of each caption; None is the text tower's maximum.
      all_experts: whether mixtures compute every expert for every token, as `petl.moe` does for few experts.
      captions_per_image: how many captions each image is paired with.
      kept_patches: how many patches of an image pass through the blocks; None stands for all.
    """
    all_tokens = not {"mlm", "filip"}.isdisjoint(losses)
    images = _Run(config, method, batch_size, length, all_experts, statistics=True, kept_patches=kept_patches)
    batch_size *= captions_per_image  # from here on the number of pairs
    run = images._replace(batch_size=batch_size)
    products = [
        *images.tower("vision", every_token=all_tokens),
        *run.tower("text", every_token="filip" in losses),
    ]
    products += _prompts(config, method)
    e = config.embed_dim
    for loss in losses:
        if loss == "mlm":
            products += run.tower("text", every_token=True)
            products += _masked_words(config, heads, batch_size, _text_length(config, method, length))
        elif loss == "filip":
            pairs = images.patches * _text_length(config, method, length)
            products.append(product("loss filip", 2.0 * batch_size**2 * pairs * e, True, True))
        elif loss == "id":
            products.append(product("loss id", 2 * 2.0 * batch_size * e * heads.num_classes, True, True))
        elif loss != "balance":
            times = 2 if loss == "cmpm" else 1  # each direction normalizes other features
            products.append(product(f"loss {loss}", times * 2.0 * batch_size**2 * e, True, True))
    return products


def encode(
    config: ClipConfig,
    method: Method,
    tower: str,
    batch_size: int,
    length: int | None = None,
    *,
    all_experts: bool = False,
) -> list[Product]:
    """Returns the products of one tower's forward pass; `tower` is "vision" or "text"."""
    run = _Run(config, method, batch_size, length, all_experts, statistics=False)
    products = [*run.tower(tower), *_prompts(config, method)]
    return [product(p.name, p.forward, False, False) for p in products]


class _Run(NamedTuple):
    """The settings that determine the products of both towers; see `train_step`.

    With `statistics` the routers of a last block see all tokens, or only those that are read.
    """

    config: ClipConfig
    method: Method
    batch_size: int
    length: int | None
    all_experts: bool
    statistics: bool
    kept_patches: int | None = None

    @property
    def patches(self) -> int:
        """The number of patches that pass through the blocks."""
        return self.kept_patches or self.config.num_patches

    def tower(self, tower: str, every_token: bool = False) -> Iterator[Product]:
        """Yields the products of a tower that returns every token of its last block, or only one."""
        c, b, vision, each = self.config, self.batch_size, tower == "vision", every_token
        prefix = "visual" if vision else "text"
        d, layers, width = (getattr(c, f"{tower}_{name}") for name in ("width", "layers", "mlp"))

        def tuned(*paths: str) -> bool:
            patterns = self.method.tuned
            return any(re.fullmatch(pattern, f"{prefix}/{path}") for path in paths for pattern in patterns)

        if vision:
            pixels = 3 * c.patch_size**2
            yield product("patches", 2.0 * b * c.num_patches * pixels * d, False, tuned("conv1/kernel"))
            tokens = c.has_class_token + self.patches + _prompt_tokens(self.method, tower)
            every_token = every_token or not c.has_class_token
            stem = ("conv1/kernel", "class_embedding", "positional_embedding", "ln_pre/scale", "ln_pre/bias")
            stem += () if c.has_class_token else ("conv1/bias",)
        else:
            tokens = _text_length(c, self.method, self.length)
            stem = ("token_embedding", "positional_embedding")
        needs_grad = self.method.prompts is not None or tuned(*stem)
        for i in range(layers):
            slots = slots_of_block(getattr(self.method, tower), i, layers)
            one_from = None if every_token or i < layers - 1 else _one_token_from(slots, self.statistics)
            block = _Block(f"block_{i}", slots, tokens, one_from, tuned, self)
            products, needs_grad = block.products(d, width, needs_grad)
            yield from products
        norm = "ln_post" if vision else "ln_final"
        needs_grad = needs_grad or tuned(f"{norm}/scale", f"{norm}/bias")
        if vision and not c.has_class_token:
            yield from self.pooling(needs_grad, tuned, each=each)
            return
        rows = b * (tokens if every_token else 1)
        yield product("proj", 2.0 * rows * d * c.embed_dim, needs_grad, tuned("proj", "proj/kernel"))

    def pooling(self, left: bool, tuned: Callable[..., bool], each: bool) -> Iterator[Product]:
        """Yields the products of SigLIP's pooling head.

        Args:
          left: whether its tokens need a gradient.
          tuned: whether one of the paths below the vision tower is trained.
          each: whether each token is also pooled alone.
        """
        c, b, d = self.config, self.batch_size, self.config.vision_width
        tokens = self.patches
        rows = b * (1 + tokens if each else 1)
        qkv = tuned("pool/attn/qkv/kernel")
        biased = qkv or tuned("pool/attn/qkv/bias")
        probe = tuned("pool/probe")
        yield product("pool/attn/qkv q", 2.0 * d * d, probe, qkv)
        yield product("pool/attn/qkv k, v", 2.0 * b * tokens * d * 2 * d, left, qkv)
        yield product("pool/scores", 2.0 * b * tokens * d, probe or biased, left or biased)
        z = left or biased
        yield product("pool/values", 2.0 * b * tokens * d, z or probe, z)
        z = z or probe
        yield product("pool/attn/out", 2.0 * rows * d * d, z, tuned("pool/attn/out/kernel"))
        z = z or tuned("pool/attn/out/kernel", "pool/attn/out/bias")
        u = z or tuned("pool/ln_2/scale", "pool/ln_2/bias")
        yield product("pool/mlp/fc", 2.0 * rows * d * c.vision_mlp, u, tuned("pool/mlp/fc/kernel"))
        hidden = u or tuned("pool/mlp/fc/kernel", "pool/mlp/fc/bias")
        yield product("pool/mlp/proj", 2.0 * rows * c.vision_mlp * d, hidden, tuned("pool/mlp/proj/kernel"))


def _one_token_from(slots: Mapping[str, Part], statistics: bool) -> str | None:
    """Returns from which layer on the last block needs one token only.

    "attention": the others only provide keys and values. "mlp": routers need the attention's output for all
    tokens. None: all tokens are needed throughout.
    """
    routed = {slot for slot, part in slots.items() if part.is_mixture} if statistics else set()
    if routed <= {"beside_ln_1", "lora_q", "lora_k", "lora_v"}:
        return "attention"
    return None if routed & {"lora_proj", "after_mlp"} else "mlp"


class _Layer(NamedTuple):
    """The context of a part, which determines its products together with its settings.

    Attributes:
      rows: the tokens that the part computes.
      routed_rows: the tokens that its router scores.
      inputs: the width of its input.
      outputs: the width of its output.
      left: whether its input needs a gradient.
      all_experts: whether a mixture computes every expert for every token.
    """

    rows: int
    routed_rows: int
    inputs: int
    outputs: int
    left: bool
    all_experts: bool

    def experts(self, part: Moe | LoraMoe) -> int:
        """Returns how many experts are computed for each token."""
        return part.num_experts if self.all_experts else part.top_k


# The products of a part, as (name, rows, inputs, outputs, left, right); the last two as of `product`.
PartProducts = Iterator[tuple[str, int, int, int, bool, bool]]


def _adapter(part: Adapter, at: _Layer) -> PartProducts:
    d, r = at.inputs, at.inputs // part.reduction
    yield "down", at.rows, d, r, at.left or part.norm, True
    yield "up", at.rows, r, d, True, True


def _moe(part: Moe, at: _Layer) -> PartProducts:
    d, r, count = at.inputs, at.inputs // part.reduction, at.experts(part)
    yield "router", at.routed_rows, d, part.num_experts, True, True
    yield "down", at.rows, d, count * r, True, True
    yield "up", at.rows, count * r, d, True, True
    if at.all_experts:
        yield "up bias", at.rows, count, d, True, True


def _lora(part: Lora, at: _Layer) -> PartProducts:
    yield "a", at.rows, at.inputs, part.rank, at.left, True
    yield "b", at.rows, part.rank, at.outputs, True, True


def _lora_moe(part: LoraMoe, at: _Layer) -> PartProducts:
    rank = part.rank * at.experts(part)
    yield "router", at.routed_rows, at.inputs, part.num_experts, at.left, True
    yield "a", at.rows, at.inputs, rank, at.left, True
    yield "b", at.rows, rank, at.outputs, True, True


# The products of each part in an adapter's or a dense layer's slot. A prefix lengthens the attention instead.
PART_PRODUCTS: dict[type[Part], Callable[..., PartProducts]] = {
    Adapter: _adapter,
    Moe: _moe,
    Lora: _lora,
    LoraMoe: _lora_moe,
}


class _Block(NamedTuple):
    """One block of a tower; `one_from` is as of `_one_token_from`."""

    name: str
    slots: Mapping[str, Part]
    tokens: int
    one_from: str | None
    tuned: Callable[..., bool]
    run: _Run

    def products(self, d: int, width: int, needs_grad: bool) -> tuple[list[Product], bool]:
        """Returns the block's products, and whether its output needs a gradient, as its input may."""
        products: list[Product] = []
        l, n = self.tokens, self.name
        queries = 1 if self.one_from == "attention" else l
        m = 1 if self.one_from else l  # tokens after the attention

        def has(*slots):
            return any(self.slots.get(slot) is not None for slot in slots)

        def trains(*paths):
            return self.tuned(*(f"{n}/{path}" for path in paths))

        def put(name, rows, inputs, outputs, left, right):
            forward = 2.0 * self.run.batch_size * rows * inputs * outputs
            products.append(product(f"{n}/{name}", forward, left, right))

        def part(slot, rows, inputs, outputs, left):
            if (settings := self.slots.get(slot)) is not None:
                routed = l if self.run.statistics else rows
                at = _Layer(rows, routed, inputs, outputs, left, self.run.all_experts)
                for name, *sizes in PART_PRODUCTS[type(settings)](settings, at):
                    put(f"{slot} {name}", *sizes)

        def dense(name, slot, rows, inputs, outputs, left):
            """Adds a dense layer of CLIP's and its parts; returns whether its output needs a gradient."""
            kernel = f"{name}/kernel"
            put(f"{name} {slot}", rows, inputs, outputs, left, trains(kernel))
            part(f"lora_{slot}", rows, inputs, outputs, left)
            return left or trains(kernel, f"{name}/bias") or has(f"lora_{slot}")

        part("beside_ln_1", l, d, d, needs_grad)
        u = needs_grad or trains("ln_1/scale", "ln_1/bias") or has("beside_ln_1")
        q = dense("attn/qkv", "q", queries, d, d, u)
        k, v = (dense("attn/qkv", slot, l, d, d, u) for slot in "kv")
        settings = self.slots.get("prefix")
        prefix = settings.length if isinstance(settings, Prefix) else 0
        keys, share = l + prefix, prefix / (l + prefix)
        put("scores", queries, d, keys, q, True if k else share)
        put("values", queries, keys, d, q or k or has("prefix"), True if v else share)
        z = dense("attn/out", "out", queries, d, d, q or k or v or has("prefix"))
        part("after_attn", m, d, d, z)
        h = needs_grad or z or has("after_attn")
        part("beside_ln_2", m, d, d, h)
        u = h or trains("ln_2/scale", "ln_2/bias") or has("beside_ln_2")
        hidden = dense("mlp/fc", "fc", m, d, width, u)
        z = dense("mlp/proj", "proj", m, width, d, hidden)
        part("after_mlp", m, d, d, z)
        part("beside_mlp", m, d, d, h)
        return products, h or z or has("after_mlp", "beside_mlp")


def _text_length(c: ClipConfig, method: Method, length: int | None) -> int:
    """Returns the length of the text tower's sequence, prompts included, for captions of `length` ids."""
    prompts = _prompt_tokens(method, "text")
    if not c.causal:  # texts are padded, and prompts follow them
        return c.context_length + prompts
    return min((length or c.context_length) + prompts, c.context_length)


def _prompt_tokens(method: Method, tower: str) -> int:
    """Returns the number of prompt tokens in a tower's sequence."""
    if method.prompts is None:
        return 0
    mapped = ("both", "to_vision" if tower == "vision" else "to_text")
    return method.prompts.length * (2 if method.prompts.direction in mapped else 1)


def _prompts(c: ClipConfig, method: Method) -> Iterator[Product]:
    """Yields the maps of prompts from tower to tower, which are computed once for the whole batch."""
    if (prompts := method.prompts) is None:
        return
    depth = prompts.depth or min(c.vision_layers, c.text_layers)
    for name in ("to_vision", "to_text"):
        if prompts.direction in ("both", name):
            forward = 2.0 * depth * prompts.length * c.vision_width * c.text_width
            yield product(f"prompts {name}", forward, True, True)


def _masked_words(c: ClipConfig, heads: Heads, b: int, length: int) -> Iterator[Product]:
    """Yields the products of IRRA's head (`models.heads.MaskedWords`), all trained, for whole captions."""
    e, depth, n = c.embed_dim, heads.mlm_depth, 1 + c.grid[0] * c.grid[1]

    def layer(name, *sizes):
        forward = 2.0 * b
        for size in sizes:
            forward *= size
        return product(f"mlm {name}", forward, True, True)

    yield layer("cross q, out", length, e, 2 * e)
    yield layer("cross k, v", n, e, 2 * e)
    yield layer("cross scores, values", length, n, 2 * e)
    yield layer("blocks", depth, length, e, 12 * e)
    yield layer("blocks' scores, values", depth, length, length, 2 * e)
    yield layer("dense", length, e, e)
    yield layer("words", length, e, c.vocab_size)
