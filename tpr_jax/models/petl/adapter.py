"""The bottleneck adapter: `Up(ReLU(Down(u)))`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.matmul import dense


def adapter(u: Float[Array, "b l d"], down: dict, up: dict) -> Float[Array, "b l d"]:
    """A parallel adapter (Houlsby et al. 2019; He et al. 2022), with biases.

    `down` holds `kernel` [d, r] and `bias` [r], `up` holds `kernel` [r, d] and `bias` [d].
    """
    hidden = jax.nn.relu(dense(u, down["kernel"]) + down["bias"].astype(u.dtype))
    return dense(hidden, up["kernel"]) + up["bias"].astype(u.dtype)


def kaiming_down(fan_in: int):
    """The initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in)): Kaiming uniform with a = sqrt(5)."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
