"""The bottleneck adapter, `Up(ReLU(Down(u)))`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tpr_jax.models.matmul import dense, save_product


def adapter(u: Float[Array, "b l d"], down: dict, up: dict) -> Float[Array, "b l d"]:
    """Computes a bottleneck adapter with biases (Houlsby et al., ICML 2019; He et al., ICLR 2022).

    Args:
      u: the input.
      down: `kernel` [d, r] and `bias` [r].
      up: `kernel` [r, d] and `bias` [d].
    """
    # The narrow hidden layer is saved; the second product costs little to compute again.
    hidden = jax.nn.relu(save_product(dense(u, down["kernel"], down["bias"])))
    return dense(hidden, up["kernel"], up["bias"])


def kaiming_uniform(fan_in: int):
    """Returns the initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in)): Kaiming uniform with a = sqrt(5)."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
