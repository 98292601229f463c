"""Maps the arrays of each method to the names in the authors' code."""

import re
from collections.abc import Callable, Iterator

from tpr_jax.models.config import ClipConfig, Heads
from tpr_jax.models.methods import Method
from tpr_jax.models.petl_config import Adapter, Lora, Moe, Prefix, slots_of_block
from tpr_jax.weights.name_maps import Weight, openai_weights

# Names, without `base_model.`, that the authors' code declares but no computation reads.
DEAD = {
    "dm_adapter": r"vision_param|text_param|co_vision_param|v2i_proj\.(weight|bias)",
    "up_person": r"$^",
    "cskt": r"$^",
    "irra": r"$^",
}
# The leaves of a router: our name -> theirs.
ROUTER = {
    "w_in": "feed_forward.input_gate.weight",
    "w_task": "feed_forward.task_gate.weight",
    "prompt": "task_param",
    "alpha": "feed_forward.alpha",
}
READ_BY = {"blend": tuple(ROUTER), "sum": ("w_in", "w_task", "prompt"), "input": ("w_in",)}
# UP-Person's adapters: slot -> (name of the adapter, name of its scale).
L_ADAPTER = {"beside_ln_1": ("adapter_ln_msa", "scale_1"), "beside_ln_2": ("adapter_ln_mlp", "scale_2")}


def canonical(name: str) -> str:
    """Returns the first of a parameter's names.

    UP-Person's code registers its prefixes in the attention too, so they have a second name once it has run.
    """
    match = re.fullmatch(r"base_model\.(visual\.)?transformer\.resblocks\.(\d+)\.attn\.prefix\.(.*)", name)
    if match is None:
        return name
    tower = "vit" if match[1] else "text"
    return f"{tower}_prefix_learner.{tower}_prefix.{match[2]}.{match[3]}"


def method_weights(method: Method, config: ClipConfig, heads: Heads) -> list[Weight]:
    """Returns the names of a method's arrays; our paths begin with the collection."""
    per_block: dict[str, Callable] = {
        "dm_adapter": _dm_adapter_block,
        "up_person": _up_person_block,
        "cskt": _cskt_block,
    }
    weights: list[Weight] = []
    for tower, parts, layers, width in (
        ("visual", method.vision, config.vision_layers, config.vision_width),
        ("text", method.text, config.text_layers, config.text_width),
    ):
        for i in range(layers):
            if method.name in per_block:
                slots = slots_of_block(parts, i, layers)
                weights += per_block[method.name](slots, tower, i, width)
    if method.name == "cskt":
        weights += _cskt_prompts(method, config)
    if method.name == "irra":
        weights += _irra_heads(config, heads)
    return weights


def clip_weights(config: ClipConfig) -> list[Weight]:
    """Returns the names of the backbone's arrays; our paths begin with `params`."""
    theirs = openai_weights(config, config.grid)
    return [
        weight._replace(path=f"params/{weight.path}", names=tuple("base_model." + n for n in weight.names))
        for weight in theirs
    ]


def _resblock(tower: str, i: int) -> str:
    return f"base_model.{'visual.' if tower == 'visual' else ''}transformer.resblocks.{i}."


def _norm(ours: str, theirs: str, d: int) -> Iterator[Weight]:
    yield Weight(f"{ours}/scale", (f"{theirs}.weight",), "same", (d,))
    yield Weight(f"{ours}/bias", (f"{theirs}.bias",), "same", (d,))


def _linear(ours: str, theirs: str, inputs: int, outputs: int) -> Iterator[Weight]:
    yield Weight(f"{ours}/kernel", (f"{theirs}.weight",), "linear", (outputs, inputs))
    yield Weight(f"{ours}/bias", (f"{theirs}.bias",), "same", (outputs,))


def _dm_adapter_block(slots, tower: str, i: int, d: int) -> Iterator[Weight]:
    part: Moe = slots["beside_mlp"]
    ours, theirs = f"moe/{tower}/block_{i}/beside_mlp", _resblock(tower, i)
    e, r = part.num_experts, d // part.reduction
    yield from _norm(f"{ours}/ln_3", f"{theirs}ln_3", d)
    shapes = {"w_in": (e, d), "w_task": (e, d), "prompt": (d,), "alpha": ()}
    for leaf in READ_BY[part.router]:
        layout = "linear" if leaf.startswith("w_") else "same"
        yield Weight(f"{ours}/router/{leaf}", (theirs + ROUTER[leaf],), layout, shapes[leaf])
    # Theirs: one Linear per expert. Ours: down [d, e, r], up [e, r, d].
    for name, inputs, outputs, axis in (("down", d, r, 1), ("up", r, d, 0)):
        experts = [f"{theirs}feed_forward.experts.{j}.{name}" for j in range(e)]
        kernels, biases = (tuple(f"{x}.{leaf}" for x in experts) for leaf in ("weight", "bias"))
        yield Weight(f"{ours}/{name}/kernel", kernels, "linear", (outputs, inputs), axis)
        yield Weight(f"{ours}/{name}/bias", biases, "same", (outputs,), 0)


def _up_person_block(slots, tower: str, i: int, d: int) -> Iterator[Weight]:
    block = _resblock(tower, i)
    for slot, (adapter, scale) in L_ADAPTER.items():
        if isinstance(part := slots.get(slot), Adapter):
            ours, r = f"adapter/{tower}/block_{i}/{slot}", d // part.reduction
            yield from _linear(f"{ours}/down", f"{block}{adapter}.down", d, r)
            yield from _linear(f"{ours}/up", f"{block}{adapter}.up", r, d)
            yield Weight(f"{ours}/scale", (block + scale,), "same", ())
    for j, target in enumerate("kv"):
        if isinstance(part := slots.get(f"lora_{target}"), Lora):
            ours = f"lora/{tower}/block_{i}/attn/qkv/lora_{target}"
            theirs = f"LORA_learner.lora_{'image' if tower == 'visual' else 'text'}.{i}."
            yield Weight(f"{ours}/a", (f"{theirs}lora_A.{j}",), "linear", (part.rank, d))
            yield Weight(f"{ours}/b", (f"{theirs}lora_B.{j}",), "linear", (d, part.rank))
            yield Weight(f"{ours}/scale", (f"{theirs}scale.{j}.scale",), "same", ())
    if isinstance(part := slots.get("prefix"), Prefix):
        ours, name = f"prefix/{tower}/block_{i}/attn/prefix", "vit" if tower == "visual" else "text"
        theirs = f"{name}_prefix_learner.{name}_prefix.{i}."
        for leaf, short in (("key", "key"), ("value", "val")):
            yield Weight(f"{ours}/{leaf}", (f"{theirs}{short}.tokens",), "same", (part.length, d))
            yield Weight(f"{ours}/{leaf}_scale", (f"{theirs}{short}.scaler.scale",), "same", ())
        if part.gate is not None:
            yield Weight(f"{ours}/gate", (f"{theirs}scale_to_grad",), "same", ())


def _cskt_block(slots, tower: str, i: int, d: int) -> Iterator[Weight]:
    ours, theirs = f"adapter/{tower}/block_{i}/beside_mlp", _resblock(tower, i)
    r = d // slots["beside_mlp"].reduction
    yield from _norm(f"{ours}/ln_3", f"{theirs}ln_3", d)
    yield from _linear(f"{ours}/down", f"{theirs}adapter_mlp.down", d, r)
    yield from _linear(f"{ours}/up", f"{theirs}adapter_mlp.up", r, d)


def _cskt_prompts(method: Method, config: ClipConfig) -> Iterator[Weight]:
    assert method.prompts is not None  # CSKT has them
    v, w, n = config.vision_width, config.text_width, method.prompts.length
    depth = method.prompts.depth or min(config.vision_layers, config.text_layers)
    learner, ours = "prompt_learner.", "prompt/prompts"

    def names(first: str, deep: str, leaf: str = "") -> tuple[str, ...]:
        later = (f"{learner}{deep}.{i}{leaf}" for i in range(depth - 1))
        return (f"{learner}{first}{leaf}", *later)

    yield Weight(f"{ours}/text", names("ctx", "compound_prompts_text"), "same", (n, w), 0)
    yield Weight(f"{ours}/visual", names("vision", "compound_prompts_vision"), "same", (n, v), 0)
    for tower, first, deep, shape in (
        ("to_visual", "tmap", "compound_prompt_projections", (v, w)),
        ("to_text", "vmap", "compound_prompt_projections_vision", (w, v)),
    ):
        yield Weight(f"{ours}/{tower}/kernel", names(first, deep, ".weight"), "linear", shape, 0)
        yield Weight(f"{ours}/{tower}/bias", names(first, deep, ".bias"), "same", shape[:1], 0)


def _irra_heads(config: ClipConfig, heads: Heads) -> Iterator[Weight]:
    e, ours = config.embed_dim, "head/masked_words"
    if heads.num_classes:
        yield from _linear("head/classifier", "classifier", e, heads.num_classes)
    if not heads.mlm_depth:
        return
    for name in ("ln_pre_t", "ln_pre_i", "ln_post"):
        yield from _norm(f"{ours}/{name}", name, e)
    yield from _attention(f"{ours}/cross_attn", "cross_attn", e)
    for i in range(heads.mlm_depth):
        block, theirs = f"{ours}/cross_block_{i}", f"cross_modal_transformer.resblocks.{i}"
        yield from _norm(f"{block}/ln_1", f"{theirs}.ln_1", e)
        yield from _norm(f"{block}/ln_2", f"{theirs}.ln_2", e)
        yield from _attention(f"{block}/attn", f"{theirs}.attn", e)
        yield from _linear(f"{block}/mlp/fc", f"{theirs}.mlp.c_fc", e, 4 * e)
        yield from _linear(f"{block}/mlp/proj", f"{theirs}.mlp.c_proj", 4 * e, e)
    yield from _linear(f"{ours}/mlm_head_dense", "mlm_head.dense", e, e)
    yield from _norm(f"{ours}/mlm_head_ln", "mlm_head.ln", e)
    yield from _linear(f"{ours}/mlm_head_fc", "mlm_head.fc", e, config.vocab_size)


def _attention(ours: str, theirs: str, d: int) -> Iterator[Weight]:
    yield Weight(f"{ours}/qkv/kernel", (f"{theirs}.in_proj_weight",), "linear", (3 * d, d))
    yield Weight(f"{ours}/qkv/bias", (f"{theirs}.in_proj_bias",), "same", (3 * d,))
    yield from _linear(f"{ours}/out", f"{theirs}.out_proj", d, d)
