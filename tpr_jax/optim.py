"""Learning-rate schedules, parameter groups and the optimizer of the trainable collections."""

import math
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from tpr_jax.errors import UserError
from tpr_jax.utils.trees import flatten, unflatten

SCHEDULES = ("cosine", "linear", "step", "poly", "exp", "constant")

# (pattern of the leaf's path, factor on the rate, weight decay): the first line that matches a leaf holds.
DEFAULT_GROUPS = ((r".*/bias", 2.0, 0.0), (r".*", 1.0, 4e-5))


def rate_factor(
    progress,
    *,
    kind: str,
    warmup: float,
    total: float,
    warmup_factor=0.1,
    milestones=(20, 50),
    gamma=0.1,
    power=0.9,
):
    """The factor on the base rate after `progress` epochs (or steps) of `total`; works on arrays and floats.

    Linear from `warmup_factor` to 1 over `warmup`, then `kind`. 'step' multiplies by `gamma` at each of the
    `milestones`. 'poly' and 'exp' are the reference's own forms, `power^(1 - a)` and `power^a`, with a the
    part done since the warm-up.
    """
    done = jnp.clip((progress - warmup) / max(total - warmup, 1e-9), 0.0, 1.0)
    after = {
        "cosine": lambda: 0.5 * (1 + jnp.cos(math.pi * done)),
        "linear": lambda: 1 - done,
        "step": lambda: gamma ** sum(((progress >= m) * 1.0 for m in milestones), 0.0 * progress),
        "poly": lambda: power ** (1 - done),
        "exp": lambda: power**done,
        "constant": lambda: 1.0 + 0 * done,
    }
    ramp = warmup_factor + (1 - warmup_factor) * progress / max(warmup, 1e-9)
    return jnp.where(progress < warmup, ramp, after[kind]())


def schedule(
    base_lr: float,
    *,
    kind: str,
    warmup_epochs: float,
    num_epochs: float,
    steps_per_epoch: int,
    per_step: bool,
    **settings,
) -> Callable:
    """step -> learning rate. By epoch the rate stays the same within one (the reference); `per_step` moves
    along the same curve at every step."""
    if kind not in SCHEDULES:
        raise UserError(f"schedule '{kind}' is unknown: choose one of {', '.join(SCHEDULES)}")

    def rate(step):
        epochs = step / steps_per_epoch if per_step else step // steps_per_epoch
        return base_lr * rate_factor(epochs, kind=kind, warmup=warmup_epochs, total=num_epochs, **settings)

    return rate


def parameter_groups(weight_decay: float, bias_lr_factor: float, head_lr_factor: float) -> tuple:
    """The reference's groups: biases have a rate of their own and no decay, and the heads of the losses 'id'
    and 'mlm' (but not the blocks before them, nor those blocks' biases) a higher rate."""
    heads = r"head/(classifier|masked_words/mlm_head_\w+)/"
    return (
        (heads + "bias", head_lr_factor, 0.0),
        (heads + "(kernel|scale)", head_lr_factor, weight_decay),
        (r".*/bias", bias_lr_factor, 0.0),
        (r"head/masked_words/cross_.*", head_lr_factor, weight_decay),
        (r".*", 1.0, weight_decay),
    )


def leaf_path(path) -> str:
    """A leaf's path in a tree, joined by slashes: `moe/visual/block_0/beside_mlp/down/bias`."""
    return "/".join(str(key.key) for key in path)


def group_of(tree: dict, groups: Sequence) -> dict:
    """A tree of each leaf's group, as text; a leaf that no pattern covers is an error."""

    def find(path, _):
        name = leaf_path(path)
        for i, (pattern, _, _) in enumerate(groups):
            if re.fullmatch(pattern, name):
                return str(i)
        raise UserError(f"no parameter group covers '{name}': add a pattern to `groups`, '.*' for the rest")

    return jax.tree_util.tree_map_with_path(find, tree)


def adam(
    rate: Callable,
    trainable: dict,
    groups: Sequence = DEFAULT_GROUPS,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-3,
    clip_norm=0.0,
) -> optax.GradientTransformation:
    """Adam as PyTorch's: L2 weight decay is added to the gradient before the moments (not AdamW).

    `trainable` holds the trainable collections only; all its leaves must be covered by `groups`.
    `clip_norm` above 0 limits the norm of the gradient of these leaves.
    """

    def one(factor, decay):
        return optax.chain(
            optax.add_decayed_weights(decay) if decay else optax.identity(),
            optax.scale_by_adam(b1, b2, eps),
            optax.scale_by_learning_rate(lambda step: factor * rate(step)),
        )

    labels = group_of(trainable, groups)
    by_group = optax.multi_transform({str(i): one(f, d) for i, (_, f, d) in enumerate(groups)}, labels)
    return optax.chain(optax.clip_by_global_norm(clip_norm), by_group) if clip_norm else by_group


def split_model(variables: dict, method) -> tuple[dict, dict]:
    """(trainable, frozen) collections of a model: what its method trains, and the heads of losses."""
    names = (*method.trainable, *({"head"} & variables.keys()))
    return split_collections(variables, names, method.tuned)


def split_collections(
    variables: dict, trainable: Sequence[str], tuned: Sequence[str] = (".*",)
) -> tuple[dict, dict]:
    """(trainable, frozen) collections of a model; together they hold each leaf once.

    Of `params`, if it is trainable, only the leaves whose path a pattern of `tuned` matches are. A name that
    the model does not have, or a pattern that matches nothing, is an error.
    """
    for name in trainable:
        if name not in variables:
            raise UserError(
                f"trainable collection '{name}' is not in the model, which has {sorted(variables)}"
            )
    split = {name: tree for name, tree in variables.items() if name in trainable and name != "params"}
    frozen = {name: tree for name, tree in variables.items() if name not in trainable}
    if "params" in trainable:
        flat = flatten(variables["params"])
        for pattern in tuned:
            if not any(re.fullmatch(pattern, path) for path in flat):
                raise UserError(f"no weight of CLIP matches the pattern '{pattern}' of those to be trained")
        chosen = {path for path in flat if any(re.fullmatch(pattern, path) for pattern in tuned)}
        split["params"] = unflatten({path: flat[path] for path in flat if path in chosen})
        if rest := {path: flat[path] for path in flat if path not in chosen}:
            frozen["params"] = unflatten(rest)
    return split, frozen
