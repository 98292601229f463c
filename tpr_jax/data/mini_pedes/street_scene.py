"""Places and cameras of the domain `street`: what a detector's box in footage of a real camera looks like."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from tpr_jax.data.mini_pedes import scene
from tpr_jax.data.mini_pedes.render import paint_person
from tpr_jax.data.mini_pedes.street_people import CLOTH, sample_dye, sample_street_person

CANVAS = 256  # height in pixels at which a scene is drawn, before the camera
GROUNDS = {  # hue in degrees, saturation, value; asphalt and paving are the most frequent
    "asphalt": ((200, 240), (0.0, 0.08), (0.25, 0.85)),
    "paving": ((25, 45), (0.04, 0.22), (0.4, 0.85)),
    "grass": ((70, 105), (0.3, 0.65), (0.22, 0.5)),
    "earth": ((18, 38), (0.2, 0.5), (0.25, 0.6)),
}


def street_view(rng: np.random.Generator, index: int) -> dict:
    """Samples how image `index` of a person is taken, with the keys of `scene.sample_view` and further ones.

    `loose` means that the box may cut the person; `aspect` is width / height of the box, and `pixels` its
    height in the footage.
    """
    view = scene.sample_view(rng, "mini", index)
    kind = rng.random()
    if kind < 0.13:  # cut by the frame or by the box
        fill, shift = rng.uniform(1.0, 1.6), (rng.uniform(-0.2, 0.2), rng.uniform(-0.35, 0.35))
    elif kind < 0.18:  # a small person in a large box
        fill, shift = rng.uniform(0.4, 0.62), (rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2))
    else:
        fill, shift = rng.uniform(0.64, 0.97), rng.normal(0, 1, 2) * (0.07, 0.035)
    return view | {
        "elevation": float(np.deg2rad(rng.uniform(0, 42))),
        "distance": float(rng.uniform(4.0, 28.0)),
        "fill": float(fill),
        "shift": np.array(shift),
        "loose": True,
        "ambient": float(rng.uniform(0.42, 0.85)),
        "aspect": _sample_aspect(rng),
        "pixels": _sample_height(rng),
    }


def _sample_aspect(rng: np.random.Generator) -> float:
    """Samples width / height of a detector's box."""
    return float(rng.uniform(0.34, 0.48))


def _sample_height(rng: np.random.Generator) -> int:
    """Samples the height of a box in pixels of the footage."""
    return round(float(np.exp(rng.uniform(np.log(48), np.log(200)))))


def _color(rng: np.random.Generator) -> np.ndarray:
    names = list(CLOTH)
    return np.array(sample_dye(rng, CLOTH[names[int(rng.integers(len(names)))]]), float)


def draw_polygon(
    image: Float[np.ndarray, "h w 3"], points: Sequence[tuple[float, float]], color, share: float = 1.0
) -> None:
    """Fills a polygon with a color, in place; of `share` 0.5 it is half transparent."""
    mask = Image.new("L", image.shape[1::-1])
    ImageDraw.Draw(mask).polygon(points, fill=255)
    inside = np.asarray(mask) > 0
    image[inside] = (1 - share) * image[inside] + share * np.asarray(color)


def _markings(rng, image: np.ndarray) -> None:
    """Draws slanted lines on the ground: the paint of a road, a curb, or tape."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        y, thick, slope = rng.uniform(0, height), rng.uniform(1, 7), rng.uniform(-1.2, 1.2) * width
        color = [(235, 235, 230), (220, 190, 80), (120, 120, 122), (190, 200, 220)][int(rng.integers(4))]
        points = [(0, y), (width, y + slope), (width, y + slope + thick), (0, y + thick)]
        draw_polygon(image, points, color, rng.uniform(0.4, 1.0))


def draw_vehicle(rng: np.random.Generator, image: Float[np.ndarray, "h w 3"], color, tall: bool) -> None:
    """Draws a car, or a van if `tall`, from the side or slanted, in place; the frame cuts most of them."""
    height, width = image.shape[:2]
    long = width * rng.uniform(1.2, 4.0)
    high = long * (rng.uniform(0.42, 0.62) if tall else rng.uniform(0.28, 0.36))
    left, top = rng.uniform(-0.65 * long, 0.35 * width), rng.uniform(0.0, 0.5) * height
    slant = rng.uniform(-0.25, 0.25) * high

    def place(u: float, v: float) -> tuple[float, float]:
        return left + u * long, top + v * high + slant * u

    roof = (0.03, 0.85) if tall else (0.24, 0.8)
    outline = [(0, 0.9), (0, 0.45 if not tall else 0.1), (roof[0], 0.0), (roof[1], 0.0), (1, 0.5), (1, 0.9)]
    draw_polygon(image, [place(u, v + 0.12) for u, v in outline], (40, 40, 42), 0.5)  # the shadow
    draw_polygon(image, [place(*point) for point in outline], color)
    draw_polygon(image, [place(u, v) for u, v in [(0, 0.6), (1, 0.65), (1, 0.9), (0, 0.9)]], color * 0.85)
    for start in np.linspace(roof[0] + 0.04, roof[1] - 0.2, int(rng.integers(2, 4))):
        window = [(start, 0.1), (start + 0.16, 0.1), (start + 0.18, 0.4), (start, 0.4)]
        draw_polygon(
            image, [place(*point) for point in window], rng.uniform(20, 110) * np.array([0.9, 1, 1.1])
        )
    turn = np.linspace(0, 2 * np.pi, 16)
    for center in (0.2, 0.8):
        for size, shade in ((0.17, 25), (0.09, rng.uniform(60, 170))):
            wheel = [place(center + size * high / long * np.cos(t), 0.9 + size * np.sin(t)) for t in turn]
            draw_polygon(image, wheel, (shade, shade, shade))


def draw_sign(rng: np.random.Generator, image: Float[np.ndarray, "h w 3"], color) -> None:
    """Draws a sign on a pole, in place; as wide as up to half of the frame."""
    height, width = image.shape[:2]
    x, y = rng.uniform(0, width), rng.uniform(-0.1, 0.6) * height
    w, h = rng.uniform(0.15, 0.5) * width, rng.uniform(0.1, 0.35) * height
    pole = rng.uniform(0.01, 0.05) * width
    gray = rng.uniform(90, 210) * np.array([0.95, 1.0, 1.05])
    draw_polygon(image, [(x - pole, y), (x + pole, y), (x + pole, height), (x - pole, height)], gray)
    board = [(x - w / 2, y), (x + w / 2, y), (x + w / 2, y + h), (x - w / 2, y + h)]
    draw_polygon(image, board, (235, 235, 235))
    draw_polygon(image, [(x + 0.92 * (u - x), y + h / 2 + 0.92 * (v - y - h / 2)) for u, v in board], color)
    for line in np.arange(0.25, 0.8, 0.22):
        row = y + line * h
        draw_polygon(
            image, [(x - 0.3 * w, row), (x + 0.3 * w, row), (x + 0.3 * w, row + 0.07 * h)], (240,) * 3
        )


def _clutter(rng, image: np.ndarray) -> None:
    """Draws blocks of any color: bins, cones, doors, bags, and parts of what is beside a person."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.1, 1.0) * width, rng.uniform(-0.1, 0.9) * height
        w, h = rng.uniform(0.05, 0.45) * width, rng.uniform(0.03, 0.3) * height
        lean = rng.uniform(-0.3, 0.3) * w
        points = [(x + lean, y), (x + w - abs(lean), y), (x + w, y + h), (x, y + h)]
        draw_polygon(image, points, _color(rng))


def street_background(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """Draws a place as float RGB in 0..255: mostly ground seen from above, with what stands on it."""
    if rng.random() < 0.25:
        image = scene.background(rng, ("mini", "pretrain")[int(rng.integers(2))], height, width)
    else:
        image = np.empty((height, width, 3))
        names = rng.choice(list(GROUNDS), 2, p=[0.5, 0.2, 0.22, 0.08])
        image[:] = sample_dye(rng, GROUNDS[names[0]])
        if rng.random() < 0.5:  # another ground beyond a slanted edge
            y, slope = rng.uniform(0, 0.9) * height, rng.uniform(-0.8, 0.8) * width
            beyond = [(0, y), (width, y + slope), (width, -height), (0, -height)]
            draw_polygon(image, beyond, sample_dye(rng, GROUNDS[names[1]]))
        grain = 14 if "grass" in names else 7
        image += (scene.smooth_noise(rng, height, width, 7) * rng.uniform(0.3, 1.3) * grain)[..., None]
        if rng.random() < 0.5:
            _markings(rng, image)
    if rng.random() < 0.2:
        _clutter(rng, image)
    if rng.random() < 0.1:
        draw_vehicle(rng, image, _color(rng), tall=bool(rng.random() < 0.4))
    if rng.random() < 0.1:
        draw_sign(rng, image, _color(rng))
    if rng.random() < 0.15:  # the shadow of something outside of the frame
        y, slope = rng.uniform(0, 1) * height, rng.uniform(-1, 1) * width
        draw_polygon(image, [(0, y), (width, y + slope), (width, height), (0, height)], (20, 22, 30), 0.35)
    return image


def take_photo(
    rng: np.random.Generator, image: Float[np.ndarray, "h w 3"], pixels: int, height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Applies a cheap camera: color cast, exposure, contrast, few pixels, motion, noise and JPEG.

    Args:
      rng: draws what this camera is like.
      image: float RGB in 0..255.
      pixels: the height of the box in the footage.
      height: the height of the result, to which the box is enlarged or reduced.
      width: the width of the result.
    """
    gray = image.mean(axis=2, keepdims=True)
    image = gray + (image - gray) * rng.uniform(0.55, 1.5)
    image = image / 255 * rng.uniform(0.93, 1.07, 3) * rng.uniform(0.85, 1.3)
    image = np.clip(image, 0, 1) ** rng.uniform(0.65, 1.15)
    contrast = rng.uniform(0.8, 1.45)
    image = np.clip((image - 0.45) * contrast + 0.45 + rng.uniform(-0.04, 0.06), 0, 1)
    small = Image.fromarray((255 * image).astype(np.uint8))
    small = small.resize(
        (max(12, round(pixels * image.shape[1] / image.shape[0])), pixels), Image.Resampling.BOX
    )
    if rng.random() < 0.35:  # motion, along one of the two axes
        moved, steps = np.asarray(small, np.float32), int(rng.integers(2, max(3, 2 + pixels // 40)))
        axis = int(rng.random() < 0.75)
        mean = np.mean([np.roll(moved, step, axis) for step in range(steps)], axis=0)
        small = Image.fromarray(mean.astype(np.uint8))
    if rng.random() < 0.6:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    if rng.random() < 0.4:  # as cameras sharpen
        small = small.filter(ImageFilter.UnsharpMask(rng.uniform(0.8, 2.0), int(rng.integers(40, 220)), 0))
    grainy = np.asarray(small, np.float32) + rng.normal(0, 1, (pixels, small.width, 3)) * rng.uniform(0, 6)
    grainy += rng.normal(0, 1, (pixels, small.width, 1)) * rng.uniform(0, 6)
    stored = io.BytesIO()
    Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8)).save(
        stored, "JPEG", quality=int(rng.integers(28, 93))
    )
    with Image.open(stored, formats=["JPEG"]) as photo:
        how = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(rng.integers(2))]
        return np.asarray(photo.convert("RGB").resize((width, height), how))


def neighbor_view(rng, view: dict) -> dict:
    """Returns a view of a second person, who is partly in the frame at the left or right."""
    aside = rng.choice([-1, 1]) * rng.uniform(0.45, 0.68)
    other = scene.sample_view(rng, "mini", int(rng.integers(4)))
    moved = {
        "fill": view["fill"] * rng.uniform(0.85, 1.1),
        "shift": view["shift"] + (aside, rng.normal(0, 0.05)),
    }
    same = ("elevation", "distance", "sun", "ambient", "loose")
    return other | {key: view[key] for key in same} | moved


def render_street(
    person: dict, view: dict, rng: np.random.Generator, height: int, width: int
) -> dict[str, np.ndarray]:
    """Renders a person as `render.render`: in one image of four with a neighbor, in one of ten behind a sign.

    Returns:
      The image, and the part map of what is not hidden, at the resolution of rendering.
    """
    wide = round(CANVAS * view["aspect"])
    image = street_background(rng, CANVAS, wide)
    neighbor = rng.random()
    if neighbor < 0.17:  # behind the person
        paint_person(image, sample_street_person(rng), neighbor_view(rng, view), rng)
    parts = paint_person(image, person, view, rng)
    if 0.17 <= neighbor < 0.25:
        parts[paint_person(image, sample_street_person(rng), neighbor_view(rng, view), rng) > 0] = 0
    if rng.random() < 0.1:
        before = image.copy()
        draw_sign(rng, image, _color(rng))
        parts[(image != before).any(axis=2)] = 0
    return {"image": take_photo(rng, image, view["pixels"], height, width), "parts": parts}


def render_thing(
    rng: np.random.Generator, thing: str | None, color: str, height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Renders a box without a person: a 'van', 'car' or 'sign' of a color of `CLOTH`, or none."""
    wide = round(CANVAS * _sample_aspect(rng))
    image = street_background(rng, CANVAS, wide)
    dye = np.array(sample_dye(rng, CLOTH[color]), float)
    if thing == "sign":
        draw_sign(rng, image, dye)
    elif thing:
        draw_vehicle(rng, image, dye, tall=thing == "van")
    return take_photo(rng, image, _sample_height(rng), height, width)
