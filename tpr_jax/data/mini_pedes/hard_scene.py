"""Scenes and cameras of the domain `hard`: crowds, occlusion, night, blur, few pixels and JPEG."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from tpr_jax.data.mini_pedes import scene
from tpr_jax.data.mini_pedes.render import paint_person
from tpr_jax.data.mini_pedes.street_scene import draw_polygon, neighbor_view, street_background
from tpr_jax.data.mini_pedes.wardrobe import sample_person

CANVAS = 240  # height in pixels at which a scene is drawn, before the camera
# What makes an image hard -> its probability. They are independent: one image of four has none.
CONDITIONS = {
    "crowded": 0.25,
    "occluded": 0.25,
    "night": 0.2,
    "blurred": 0.2,
    "low resolution": 0.2,
    "jpeg": 0.2,
}
OCCLUDER_TRIES = 4
LAMPS = ((1.25, 0.95, 0.55), (0.75, 0.95, 1.3), (0.9, 1.15, 0.85))  # RGB: sodium, moonlight, fluorescent


def hard_view(rng: np.random.Generator, index: int) -> dict:
    """Samples how image `index` of a person is taken, with the keys of `scene.sample_view`."""
    return scene.sample_view(rng, "mini", index) | {
        "elevation": float(np.deg2rad(rng.uniform(0, 30))),
        "distance": float(rng.uniform(4.5, 14.0)),
        "fill": float(rng.uniform(0.74, 0.96)),
        "shift": rng.normal(0, 1, 2) * (0.06, 0.025),
        "loose": True,
    }


def sample_conditions(rng: np.random.Generator) -> list[str]:
    """Samples what makes an image hard, in the order of `CONDITIONS`."""
    return [name for name, probability in CONDITIONS.items() if rng.random() < probability]


def _occlude(rng: np.random.Generator, image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Draws a low wall, a post or a board before the person, in place; returns 1 where it is."""
    height, width = image.shape[:2]
    color = rng.uniform(40, 215) * rng.uniform(0.85, 1.15, 3)
    kind = int(rng.integers(3))
    if kind == 0:  # a wall or a parked car, from below
        left, top, right, bottom = -1.0, rng.uniform(0.52, 0.72), 2.0, 1.1
    elif kind == 1:  # a post or a trunk
        left, top, bottom = rng.uniform(0.15, 0.6), -0.1, 1.1
        right = left + rng.uniform(0.2, 0.36)
    else:  # a board, a cart, a bin
        left, top = rng.uniform(-0.1, 0.4), rng.uniform(0.2, 0.65)
        right, bottom = left + rng.uniform(0.4, 0.75), top + rng.uniform(0.2, 0.34)
    lean = rng.uniform(-0.03, 0.03)
    corners = [(left, top - lean), (right, top + lean), (right + lean, bottom), (left + lean, bottom)]
    shape = [(u * width, v * height) for u, v in corners]
    before = np.zeros_like(image)
    draw_polygon(before, shape, (1.0, 1.0, 1.0))
    draw_polygon(image, shape, color)
    edge = [(u, v + 0.03 * height) for u, v in shape[:2]]
    draw_polygon(image, [*shape[:2], *edge[::-1]], color * 1.25)
    inside = before[..., 0] > 0
    image[inside] += (scene.smooth_noise(rng, height, width, 5) * 8)[inside][:, None]
    return inside.astype(np.uint8)


def _try_before(
    draw: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    parts: np.ndarray,
    shows_enough: Callable[[np.ndarray], bool],
    tries: int,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Draws something before the person unless it hides too much; returns image, parts, success."""
    for _ in range(tries):
        changed, left = image.copy(), parts.copy()
        left[draw(changed) > 0] = 0
        if (left != parts).any() and shows_enough(left):
            return changed, left, True
    return image, parts, False


def render_hard(
    person: dict,
    view: dict,
    conditions: list[str],
    rng: np.random.Generator,
    size: tuple[int, int],
    shows_enough: Callable[[np.ndarray], bool],
) -> dict:
    """Renders a person under conditions.

    Args:
      person: from `hard_people`.
      view: from `hard_view`.
      conditions: from `sample_conditions`.
      rng: draws everything else.
      size: height and width of the image in pixels.
      shows_enough: tells whether a part map still shows what the captions have to name; nothing is put before
        the person that hides more.

    Returns:
      `image` [height, width, 3], `parts`, the map of what is visible at the resolution of rendering, and
      `hard`, the conditions that the image has.
    """
    wide = round(CANVAS * size[1] / size[0])
    image = street_background(rng, CANVAS, wide)
    crowded = "crowded" in conditions
    in_front = crowded and rng.random() < 0.4
    for _ in range(1 if in_front else int(rng.integers(1, 3)) if crowded else 0):
        paint_person(image, sample_person(rng, "mini"), neighbor_view(rng, view), rng)
    parts = paint_person(image, person, view, rng)
    done = list(conditions)
    if in_front:

        def draw(canvas: np.ndarray) -> np.ndarray:
            return paint_person(canvas, sample_person(rng, "mini"), neighbor_view(rng, view), rng)

        image, parts, _ = _try_before(draw, image, parts, shows_enough, 1)
    if "occluded" in conditions:
        image, parts, is_there = _try_before(
            lambda canvas: _occlude(rng, canvas), image, parts, shows_enough, OCCLUDER_TRIES
        )
        if not is_there:
            done.remove("occluded")
    image = np.clip(image * view["balance"] * view["exposure"], 0, 255)
    return {"image": take_hard_photo(rng, image, done, view["noise"], size), "parts": parts, "hard": done}


def take_hard_photo(
    rng: np.random.Generator,
    image: Float[np.ndarray, "h w 3"],
    conditions: list[str],
    noise: float,
    size: tuple[int, int],
) -> UInt8[np.ndarray, "height width 3"]:
    """Photographs a scene: light, lens, sensor, file, in this order.

    Args:
      rng: draws how strong each condition is.
      image: float RGB in 0..255.
      conditions: those of `CONDITIONS` that a camera makes; the others are ignored.
      noise: standard deviation of the sensor's noise by day.
      size: height and width of the result.
    """
    if "night" in conditions:
        lamp = np.array(LAMPS[int(rng.integers(len(LAMPS)))])
        image = image * lamp * rng.uniform(0.26, 0.42)
        noise = rng.uniform(4.0, 8.0)
    photo = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if "blurred" in conditions:
        photo = _blur(rng, photo)
    pixels = int(rng.integers(40, 65)) if "low resolution" in conditions else size[0]
    photo = photo.resize((max(8, round(pixels * size[1] / size[0])), pixels), Image.Resampling.BOX)
    noise *= (pixels / size[0]) ** 0.5  # a pixel that gathers more light has less
    grain = rng.normal(0, 1, (photo.height, photo.width, 3 if "night" in conditions else 1)) * noise
    photo = Image.fromarray(np.clip(np.asarray(photo, np.float32) + grain, 0, 255).astype(np.uint8))
    photo = photo.resize(size[::-1], Image.Resampling.BICUBIC)
    if "jpeg" in conditions:
        stored = io.BytesIO()
        photo.save(stored, "JPEG", quality=int(rng.integers(8, 19)))
        with Image.open(stored, formats=["JPEG"]) as compressed:
            photo = compressed.convert("RGB")
    return np.asarray(photo)


def _blur(rng: np.random.Generator, photo: Image.Image) -> Image.Image:
    """Puts a photo out of focus, or moves it while it is taken."""
    if rng.random() < 0.6:
        return photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.009, 0.017) * photo.height))
    steps = round(rng.uniform(0.035, 0.07) * photo.height)
    axis = int(rng.random() < 0.75)  # mostly sideways
    pad = [(0, 0)] * 3
    pad[axis] = (steps, steps)
    padded = np.pad(np.asarray(photo, np.float32), pad, mode="edge")
    length = np.asarray(photo).shape[axis]
    start = steps - steps // 2
    moved = [padded.take(range(start + i, start + i + length), axis) for i in range(steps)]
    return Image.fromarray(np.mean(moved, axis=0).astype(np.uint8))
