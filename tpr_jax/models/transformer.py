"""A tower's blocks, unrolled or scanned, with a choice of what to save for the backward pass."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tpr_jax.models.block import Block
from tpr_jax.models.matmul import MATMUL
from tpr_jax.models.petl.prompts import replace_tokens
from tpr_jax.models.petl_config import slots_of_block

# Policies for what each block saves for the backward pass; everything else is recomputed.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names(MATMUL),  # the results of products
    "block": jax.checkpoint_policies.nothing_saveable,
}


def run_blocks(
    tower: nn.Module,
    name: str,
    x: Float[Array, "b l d"],
    mask: Float[Array, "l l"] | None,
    *,
    prompts: Float[Array, "k p d"] | None,
    start: int,
    last: bool,
    index: Int[Array, " b"] | None = None,
) -> Float[Array, "b m d"]:
    """Runs a tower's blocks; must be called inside a compact method.

    Args:
      tower: the module that owns the blocks.
      name: "vision" or "text".
      x: the tokens.
      mask: added to the attention scores.
      prompts: the prompt tokens of the first k blocks; those of the first are in x already.
      start: the position of the prompt tokens in the sequence.
      last: whether the last block returns one token of each row.
      index: that token's position in each row; None is the first.

    Returns:
      All tokens, m = l, or one of each row, m = 1.
    """
    c, parts = tower.config, getattr(tower.method, name)
    layers, heads, width = (getattr(c, f"{name}_{size}") for size in ("layers", "heads", "mlp"))

    def kind(i):
        """Returns a key; neighboring blocks with equal keys are scanned together.

        The key is its slots, whether its prompts are replaced, whether it returns one token, and whether it
        is the first: most of the first block needs no gradient, which a scan would compute nonetheless.
        """
        replaces = prompts is not None and 0 < i < prompts.shape[0]
        return slots_of_block(parts, i, layers), replaces, last and i == layers - 1, i == 0

    for (slots, replaces, returns_one, _), group in itertools.groupby(range(layers), kind):
        blocks = list(group)
        make = functools.partial(
            Block, heads, width, layers, c.act, c.layer_norm_eps, slots, last=returns_one
        )
        tokens = prompts[blocks[0] : blocks[-1] + 1] if prompts is not None and replaces else None
        if tower.scan and len(blocks) > 1 and not tower.is_initializing():
            x = _scan_blocks(tower, make(parent=None), blocks, x, mask, tokens=tokens, start=start)
            continue
        policy = REMAT[tower.remat]
        for j, i in enumerate(blocks):
            x = x if tokens is None else replace_tokens(x, tokens[j], start)
            block_class = nn.remat(Block, policy=policy) if policy else Block
            block = block_class(*make.args, **make.keywords, name=f"block_{i}")
            x = block(x, mask, index if returns_one else None)
    return x


def _scan_blocks(tower: nn.Module, block: Block, blocks: list[int], x, mask, *, tokens, start: int):
    """Runs equal blocks as one scan over their stacked variables, whose tree stays the same.

    There is less to compile; stacking copies the weights once per step.
    """
    trees = [
        {name: tree[f"block_{i}"] for name, tree in tower.variables.items() if f"block_{i}" in tree}
        for i in blocks
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def body(x, layer):
        variables, tokens = layer
        x = x if tokens is None else replace_tokens(x, tokens, start)
        return block.apply(variables, x, mask, mutable=["routing"])

    policy = REMAT[tower.remat]
    run = jax.checkpoint(body, policy=policy, prevent_cse=False) if policy else body
    x, sown = jax.lax.scan(run, x, (stacked, tokens))
    for j, i in enumerate(blocks):
        if routing := jax.tree.map(lambda leaf, j=j: leaf[j], sown.get("routing")):
            tower.put_variable("routing", f"block_{i}", routing)
    return x
