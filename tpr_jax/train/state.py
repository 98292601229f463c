"""The state of training: what a step updates and a checkpoint holds."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from tpr_jax import optim


class TrainState(NamedTuple):
    """The variables that a train step updates, without CLIP's frozen weights.

    Attributes:
      trainable: the trainable collections.
      opt_state: the state of the Optax optimizer.
      step: the number of updates done, an int32 scalar.
      bad_step: -1, or the step whose loss, gradient or update was not finite, an int32 scalar. From that step
        on nothing is updated, so the state stays the last good one.
    """

    trainable: dict
    opt_state: optax.OptState
    step: jax.Array
    bad_step: jax.Array

    @classmethod
    def create(cls, optimizer: optax.GradientTransformation, trainable: dict) -> "TrainState":
        """Returns the state before the first step."""
        return cls(
            trainable=trainable,
            opt_state=optimizer.init(trainable),
            step=jnp.zeros((), jnp.int32),
            bad_step=-jnp.ones((), jnp.int32),
        )

    @property
    def averaged(self) -> dict:
        """The trainable collections to evaluate and to keep: their average, if the optimizer has one."""
        return optim.averaged(self.trainable, self.opt_state)

    def as_dict(self) -> dict:
        """Returns the plain dict that checkpoints hold; its keys are part of their format."""
        return {
            "trainable": self.trainable,
            "opt": self.opt_state,
            "step": self.step,
            "bad_step": self.bad_step,
        }

    @classmethod
    def from_dict(cls, tree: Mapping) -> "TrainState":
        """Returns the state whose `as_dict` is `tree`."""
        return cls(tree["trainable"], tree["opt"], tree["step"], tree["bad_step"])
