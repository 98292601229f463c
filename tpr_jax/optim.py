"""Learning-rate schedules, parameter groups and the optimizer of the trainable collections."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from tpr_jax.errors import UserError
from tpr_jax.utils.trees import flatten, unflatten

if TYPE_CHECKING:
    import optax

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]  # step -> learning rate

SCHEDULES = ("cosine", "linear", "step", "poly", "exp", "constant")

# (pattern of a leaf's path, factor on the learning rate, weight decay): the first row that matches applies.
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
    """Computes the factor on the base learning rate, elementwise.

    It is linear from `warmup_factor` to 1 during the warm-up, and then follows `kind`.

    Args:
      progress: the epochs, or steps, done so far.
      kind: one of `SCHEDULES`. 'poly' and 'exp' are the reference's own forms, `power^(1 - a)` and `power^a`,
        with a the fraction done since the warm-up.
      warmup: the length of the warm-up, in the unit of `progress`.
      total: the length of the run, in the unit of `progress`.
      warmup_factor: the factor at progress 0.
      milestones: where 'step' multiplies by `gamma`.
      gamma: the factor of 'step'.
      power: the base of 'poly' and 'exp'.
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
) -> Schedule:
    """Returns `step -> learning rate`.

    Args:
      base_lr: the learning rate at factor 1.
      kind: one of `SCHEDULES`.
      warmup_epochs: the length of the warm-up, epochs.
      num_epochs: the length of the run, epochs.
      steps_per_epoch: the number of steps of an epoch.
      per_step: whether the rate follows the curve at every step; otherwise it changes between epochs only, as
        in the reference.
      **settings: see `rate_factor`.

    Raises:
      UserError: `kind` is unknown.
    """
    if kind not in SCHEDULES:
        raise UserError(f"schedule '{kind}' is unknown: choose one of {', '.join(SCHEDULES)}")

    def rate(step):
        epochs = step / steps_per_epoch if per_step else step // steps_per_epoch
        return base_lr * rate_factor(epochs, kind=kind, warmup=warmup_epochs, total=num_epochs, **settings)

    return rate


def parameter_groups(
    weight_decay: float,
    bias_lr_factor: float,
    head_lr_factor: float,
    *,
    block_lr_decay: float = 1.0,
    layers: Mapping[str, int] = MappingProxyType({}),
) -> tuple:
    """Returns the reference's parameter groups, for `adam`.

    Biases have a learning rate of their own and no weight decay. The heads of the losses 'id' and 'mlm' have
    a higher rate, but neither the blocks before them nor the biases of these blocks.

    Args:
      weight_decay: the factor on the weights that is added to the gradient.
      bias_lr_factor: the factor on the learning rate of biases.
      head_lr_factor: the factor on the learning rate of the heads.
      block_lr_decay: the factor from each block to the one below it, so that the last block of a tower and
        what follows it have the full rate, and the embeddings one factor less than the first block.
      layers: the number of blocks of each tower by its name in a path, "visual" and "text"; only needed with
        `block_lr_decay`.
    """
    heads = r"head/(classifier|masked_words/mlm_head_\w+)/"
    own = (
        (heads + "bias", head_lr_factor, 0.0),
        (heads + "(kernel|scale)", head_lr_factor, weight_decay),
    )
    rest = (
        (r".*/bias", bias_lr_factor, 0.0),
        (r"head/masked_words/cross_.*", head_lr_factor, weight_decay),
        (r".*", 1.0, weight_decay),
    )
    if block_lr_decay == 1.0:
        return own + rest
    by_depth = []
    for tower, count in layers.items():
        depths = [(f"block_{i}/", count - 1 - i) for i in range(count)]
        depths.append((r"(conv1/|class_embedding|positional_embedding|token_embedding|ln_pre/)", count))
        for name, depth in depths:
            factor, path = block_lr_decay**depth, rf"\w+/{tower}/{name}"
            by_depth.append((rf"{path}(.*/)?bias", bias_lr_factor * factor, 0.0))
            by_depth.append((rf"{path}.*", factor, weight_decay))
    return own + tuple(by_depth) + rest


def leaf_path(path: jax.tree_util.KeyPath) -> str:
    """Returns the path of a leaf, joined by slashes: `moe/visual/block_0/beside_mlp/down/bias`."""
    return "/".join(str(key.key) for key in path)


def group_of(tree: dict, groups: Sequence) -> dict:
    """Returns a tree with the group of each leaf, its index as a string.

    Raises:
      UserError: no pattern covers a leaf.
    """

    def find(path, _):
        name = leaf_path(path)
        for i, (pattern, _, _) in enumerate(groups):
            if re.fullmatch(pattern, name):
                return str(i)
        raise UserError(f"no parameter group covers '{name}': add a pattern to `groups`, '.*' for the rest")

    return jax.tree_util.tree_map_with_path(find, tree)


def adam(
    rate: Schedule,
    trainable: dict,
    groups: Sequence = DEFAULT_GROUPS,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-3,
    clip_norm=0.0,
    ema_decay=0.0,
) -> "optax.GradientTransformation":
    """Returns PyTorch's Adam: L2 weight decay is added to the gradient before the moments (not AdamW).

    Args:
      rate: `step -> learning rate`.
      trainable: the trainable collections.
      groups: (pattern, factor on the learning rate, weight decay) rows that cover all leaves.
      b1: the decay of the first moment.
      b2: the decay of the second moment.
      eps: the constant in the denominator.
      clip_norm: above 0, the highest norm of the gradient of all leaves together.
      ema_decay: above 0, the decay of the average that `averaged` returns, see `keep_average`.

    Raises:
      UserError: no pattern covers a leaf.
    """
    import optax  # takes a while, and models import this module for its small functions

    def group_optimizer(factor, decay):
        return optax.chain(
            optax.add_decayed_weights(decay) if decay else optax.identity(),
            optax.scale_by_adam(b1, b2, eps),
            optax.scale_by_learning_rate(lambda step: factor * rate(step)),
        )

    labels = group_of(trainable, groups)
    by_group = optax.multi_transform(
        {str(i): group_optimizer(f, d) for i, (_, f, d) in enumerate(groups)}, labels
    )
    before = (optax.clip_by_global_norm(clip_norm),) if clip_norm else ()
    after = (keep_average(ema_decay),) if ema_decay else ()
    return optax.chain(*before, by_group, *after) if before or after else by_group


class Average(NamedTuple):
    """The state of `keep_average`.

    Attributes:
      average: the average of the parameters, a tree as theirs.
      count: the number of updates, an int32 scalar.
    """

    average: "optax.Params"
    count: jax.Array


def keep_average(decay: float) -> "optax.GradientTransformation":
    """Returns a last link of a chain that keeps an exponential moving average of the parameters.

    Update n (from 1 on) keeps at most n / (n + 9) of the average, so that the first parameters are soon
    forgotten, as in TensorFlow's `ExponentialMovingAverage`.

    Args:
      decay: the largest share of the average that an update keeps.
    """
    import optax

    def init(params):
        # A copy, because a step donates the memory of the parameters and of this state.
        return Average(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("the average needs the parameters: call update(updates, state, params)")
        count = state.count + 1
        kept = jnp.minimum(decay, count / (count + 9.0))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, 1 - kept)
        return updates, Average(average, count)

    return optax.GradientTransformation(init, update)


def averaged(trainable: dict, opt_state) -> dict:
    """Returns the average of the parameters if the optimizer keeps one, else the parameters themselves.

    Args:
      trainable: the trainable collections.
      opt_state: the state of the optimizer of `adam`.
    """
    states = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Average))
    return next((state.average for state in states if isinstance(state, Average)), trainable)


def split_model(variables: dict, method) -> tuple[dict, dict]:
    """Returns the (trainable, frozen) collections of a model.

    Args:
      variables: all collections.
      method: the `models.methods.Method`; what it trains, and the heads of losses, is trainable.
    """
    names = (*method.trainable, *({"head"} & variables.keys()))
    return split_collections(variables, names, method.tuned)


def split_collections(
    variables: Mapping, trainable: Sequence[str], tuned: Sequence[str] = (".*",)
) -> tuple[dict, dict]:
    """Returns the (trainable, frozen) collections of a model; together they hold each leaf once.

    Args:
      variables: all collections.
      trainable: the names of the trainable collections.
      tuned: patterns of the paths in `params` that are trainable, if `params` is.

    Raises:
      UserError: the model lacks a collection, or a pattern matches nothing.
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
                raise UserError(f"the pattern '{pattern}' of trainable weights matches no weight of CLIP")
        chosen = {path for path in flat if any(re.fullmatch(pattern, path) for pattern in tuned)}
        split["params"] = unflatten({path: flat[path] for path in flat if path in chosen})
        if rest := {path: flat[path] for path in flat if path not in chosen}:
            frozen["params"] = unflatten(rest)
    return split, frozen
