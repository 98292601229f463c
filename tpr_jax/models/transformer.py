"""A tower's blocks, unrolled or as a loop, and what of them is kept for the backward pass."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpr_jax.models.block import Block
from tpr_jax.models.matmul import MATMUL
from tpr_jax.models.petl.prompts import replace
from tpr_jax.models.petl_config import slots_of_block

# What of a block is kept for the backward pass; the rest is computed again.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names(MATMUL),  # the results of products
    "block": jax.checkpoint_policies.nothing_saveable,
}


def run_blocks(tower: nn.Module, name: str, x, mask, prompts, start: int, *, last: bool, index=None):
    """Runs a tower's blocks, with prompts from position `start`; must be called inside a compact method.

    With `last` the last block gives one token a row, that at `index` [b] or the first.
    """
    c, parts = tower.config, getattr(tower.method, name)
    layers, heads, width = (getattr(c, f"{name}_{size}") for size in ("layers", "heads", "mlp"))

    def kind(i):
        """Of block i: slots, whether prompts are exchanged, whether it gives one token, whether it is first:
        through most of that one no gradient needs to go, which a loop would not know."""
        exchanged = prompts is not None and 0 < i < prompts.shape[0]
        return slots_of_block(parts, i, layers), exchanged, last and i == layers - 1, i == 0

    for (slots, exchanged, one, _), group in itertools.groupby(range(layers), kind):
        blocks = list(group)
        make = functools.partial(Block, heads, width, layers, c.act, c.layer_norm_eps, slots, last=one)
        tokens = prompts[blocks[0] : blocks[-1] + 1] if exchanged else None
        if tower.scan and len(blocks) > 1 and not tower.is_initializing():
            x = _scanned(tower, make(parent=None), blocks, x, mask, tokens, start)
            continue
        policy = REMAT[tower.remat]
        for j, i in enumerate(blocks):
            x = x if tokens is None else replace(x, tokens[j], start)
            remade = nn.remat(Block, policy=policy) if policy else Block
            block = remade(*make.args, **make.keywords, name=f"block_{i}")
            x = block(x, mask, index if one else None)
    return x


def _scanned(tower: nn.Module, block: Block, blocks: list[int], x, mask, tokens, start: int):
    """Runs equal blocks as one loop over their stacked variables, which keep their places in the tree.

    So there is less to compile; stacking copies the weights once a step.
    """
    own = [{key: t[f"block_{i}"] for key, t in tower.variables.items() if f"block_{i}" in t} for i in blocks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)

    def body(x, layer):
        variables, tokens = layer
        x = x if tokens is None else replace(x, tokens, start)
        return block.apply(variables, x, mask, mutable=["routing"])

    if policy := REMAT[tower.remat]:
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    x, found = jax.lax.scan(body, x, (stacked, tokens))
    for j, i in enumerate(blocks):
        if routing := jax.tree.map(lambda leaf, j=j: leaf[j], found.get("routing")):
            tower.put_variable("routing", f"block_{i}", routing)
    return x
