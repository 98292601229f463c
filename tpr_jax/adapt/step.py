"""The update of an adaptation, and the rows of its batches: pure functions."""

from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from tpr_jax.adapt.objectives import label_loss
from tpr_jax.data.augment import augment_image
from tpr_jax.perf.xla_options import compiler_options
from tpr_jax.train.state import TrainState
from tpr_jax.train.step import apply_gradients, on_mesh
from tpr_jax.utils.trees import merge

# The last word of a seed, which separates random streams; `data.pipeline` names those of training.
PHOTO_STREAM, TEXT_STREAM, AUGMENT_STREAM = 11, 12, 13


def jit_step(
    model: dict, optimizer: optax.GradientTransformation, scale: float, mesh: Mesh, dtype: str
) -> Callable[[TrainState, dict, dict, dict], tuple[TrainState, dict]]:
    """Returns the jitted `(state, frozen, batch, targets) -> (state, metrics)`.

    A batch holds `image` [b, h, w, 3], `image_labels` [b, t], `ids` [c, l] and `text_labels` [c, n]; the
    targets hold the L2-normalized features of all `texts` [t, e] and `photos` [n, e]. The memory of the state
    is donated. An update that is not finite leaves the state as it is, and sets its `bad_step`.

    Args:
      model: the functions of `models.clip.build`.
      optimizer: the optimizer of the trainable collections.
      scale: the factor on cosine similarities, 1 / temperature.
      mesh: the devices.
      dtype: the type that the towers compute in.
    """

    def loss(trainable: dict, frozen: dict, batch: dict, targets: dict) -> tuple[jax.Array, dict]:
        variables = merge(frozen, trainable)
        images, _ = model["encode_image"](variables, batch["image"])
        texts, _ = model["encode_text"](variables, batch["ids"])
        of_photos = label_loss(images, targets["texts"], batch["image_labels"], scale)
        of_texts = label_loss(texts, targets["photos"], batch["text_labels"], scale)
        return of_photos + of_texts, {"photos": of_photos, "texts": of_texts}

    def step(state: TrainState, frozen: dict, batch: dict, targets: dict) -> tuple[TrainState, dict]:
        gradient = jax.value_and_grad(loss, has_aux=True)
        (total, metrics), grads = gradient(state.trainable, frozen, batch, targets)
        return apply_gradients(state, optimizer, grads, total)[0], {"loss": total, **metrics}

    options = compiler_options(dtype=dtype, platform=mesh.devices.flat[0].platform)
    return jax.jit(on_mesh(step, mesh), donate_argnums=0, compiler_options=options)


def rows_of_step(count: int, size: int, step: int, seed: int, stream: int) -> Int[np.ndarray, " size"]:
    """Returns the rows of a step's batch: each pass takes all `count` rows once, in an order of its own."""
    passes, places = np.divmod(np.arange(step * size, (step + 1) * size), count)
    orders = {i: np.random.default_rng((seed, i, stream)).permutation(count) for i in set(passes.tolist())}
    return np.array([orders[i][place] for i, place in zip(passes.tolist(), places.tolist(), strict=True)])


def augmented(
    pixels: UInt8[np.ndarray, "n h w 3"],
    rows: Int[np.ndarray, " b"],
    step: int,
    seed: int,
    color: UInt8[np.ndarray, "3"],
) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns the photos of these rows, flipped, cropped and erased at random, by seed, step and place."""
    pad = max(1, pixels.shape[1] // 38)  # 5 pixels at 192, 10 at 384, as in training
    seeds = ((seed, step, place, AUGMENT_STREAM) for place in range(len(rows)))
    return np.stack(
        [augment_image(pixels[row], one, pad=pad, color=color) for row, one in zip(rows, seeds, strict=True)]
    )
