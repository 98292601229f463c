"""Renders a person: layers of meshes with their own z-buffers, merged by depth, shaded, on a background."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from tpr_jax.data.mini_pedes import paint
from tpr_jax.data.mini_pedes.body import bone_transforms, load_body, shape_body, skin
from tpr_jax.data.mini_pedes.paint import PART
from tpr_jax.data.mini_pedes.props import prop_pieces
from tpr_jax.data.mini_pedes.raster import interpolate, rasterize, vertex_normals
from tpr_jax.data.mini_pedes.scene import background, camera_axes, fit_camera, smooth_noise
from tpr_jax.data.mini_pedes.wardrobe import HAIRS, rgb_of

SUPERSAMPLE = 2


def _tights_offset(person: dict, canon: np.ndarray) -> np.ndarray:
    """Returns the distance of clothes from the body in meters; trouser legs widen toward the ankle."""
    y = canon[:, 1]
    leg = person["fit"]["leg"] * np.clip(-y / 6, 0.25, 1)
    thick = {"coat": 0.014, "jacket": 0.01, "hoodie": 0.012, "sweater": 0.006}.get(person["top"]["type"], 0.0)
    hem = np.clip(1.2 - np.abs(y - 0.4), 0, 1) * 0.012  # a loose hem hides the gap to the trousers
    trunk = 0.007 + person["fit"]["top"] * 0.7 + thick + hem
    sleeve = 0.005 + 0.3 * (person["fit"]["top"] + thick)
    above = trunk + (sleeve - trunk) * load_body()["arm"]
    return np.where(y < -0.3, 0.006 + leg, above)


def _layers(person: dict, posed: np.ndarray, surface: np.ndarray) -> list[tuple]:
    """Returns (name, vertices, faces, normals) of the surfaces that are cut in canonical coordinates."""
    data = load_body()
    canon, faces = data["canon"], data["faces"]
    normal = {name: vertex_normals(posed, faces[name]) for name in ("body", "helper-tights")}
    out = [("body", posed, faces["body"], normal["body"])]
    offset = _tights_offset(person, canon)[:, None]
    out.append(
        ("clothes", posed + normal["helper-tights"] * offset, faces["helper-tights"], normal["helper-tights"])
    )
    if person["lower"]["type"] in ("skirt", "dress") or person["top"]["type"] == "coat":
        n = vertex_normals(posed, faces["helper-skirt"])
        away = 0.03 if person["top"]["type"] == "coat" else 0.016
        out.append(("skirt", posed + n * away, faces["helper-skirt"], n))
    head = faces["body"][surface[faces["body"], 1].mean(1) > 6.2]
    style = person["hair"]["style"]
    if style != "bald":
        thick = 0.014 if style == "short" else 0.02
        out.append(("scalp", posed + normal["body"] * thick, head, normal["body"]))
    if style in ("medium", "long"):
        n = vertex_normals(posed, faces["helper-hair"])
        out.append(("hair", posed + n * 0.012, faces["helper-hair"], n))
    if person["hat"]:
        out.append(("hat", posed + normal["body"] * 0.03 + (0, 0, 0.006), head, normal["body"]))
    return out


def _outline(person: dict, layers: list[tuple]) -> list[np.ndarray]:
    """Returns the visible points of the layers, which the camera keeps in frame."""
    data = load_body()
    y = data["canon"][:, 1]
    out = []
    for name, vertices, _, _ in layers:
        if name == "skirt":
            end = paint.COAT_END if person["top"]["type"] == "coat" else person["lower"]["length"]
            rows = data["used"]["helper-skirt"]
            out.append(vertices[rows[y[rows] > end - 0.2]])
        elif name in ("body", "clothes"):
            out.append(vertices[data["used"]["body" if name == "body" else "helper-tights"]])
        elif name in ("hat", "scalp"):
            rows = data["used"]["body"]
            out.append(vertices[rows[y[rows] > 7.3]])
    return out


def _paint_layer(name: str, person: dict, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part index (0: cut away) and RGB of one layer's points."""
    if name == "body":
        return paint.paint_body(person, q)
    if name == "clothes":
        return paint.paint_clothes(person, q)
    x, y, z = q[:, 0], q[:, 1], q[:, 2]
    if name == "skirt":
        coat = person["top"]["type"] == "coat"
        end = paint.COAT_END if coat else person["lower"]["length"]
        keep = (y > end) & (y < (0.6 if coat else 1.1))
        item = person["top"] if coat else person["lower"]
        part = PART["top"] if coat or person["lower"]["type"] == "dress" else PART["lower"]
        rgb = np.tile(np.array(rgb_of(person, item["color"]), float), (len(q), 1))
        rgb[(y < end + 0.16) | ((y > 0.95) & (part == PART["lower"]))] *= 0.72
        if coat:
            rgb[(np.abs(x) < 0.06) & (z > 0)] *= 0.6
        return np.where(keep, part, 0).astype(np.uint8), rgb
    if name == "hat":
        rgb = np.tile(np.array(rgb_of(person, person["hat"]["color"]), float), (len(q), 1))
        if person["hat"]["type"] == "woolly hat":
            rgb[y < 7.34 + 0.26 * z + 0.28] *= 0.8
        return np.where(paint.hat_region(q, person["hat"]["type"]), PART["hat"], 0).astype(np.uint8), rgb
    style = person["hair"]["style"]
    if name == "scalp":
        keep = paint.scalp(q, short=style == "short")
    else:
        keep = (y > 6.7) & ~((z > 0.5) & (y < 7.85))  # below it, the hair is a mesh of props.py
    if person["hat"]:  # nothing sticks out above the hat's edge
        keep &= ~paint.hat_region(q, person["hat"]["type"])
    rgb = np.tile(np.array(HAIRS[person["hair"]["color"]], float), (len(q), 1))
    rgb *= 1 + 0.14 * np.sin(x * 23 + np.sin(y * 3))[:, None]
    return np.where(keep, PART["hair"], 0).astype(np.uint8), rgb


def _merge_props(pieces: list) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Merges the small meshes into one: vertices, faces, normals, and part and RGB of each face."""
    vertices, faces, normals, parts, colors, start = [], [], [], [], [], 0
    for v, f, part, rgb in pieces:
        vertices.append(v)
        faces.append(f + start)
        n = vertex_normals(v, f)
        # Normals that point away from the center of the mesh, whatever the winding of its faces.
        n *= np.sign(np.sum(n * (v - v.mean(0))) or 1.0)
        normals.append(n)
        parts.append(np.full(len(f), PART[part], np.uint8))
        colors.append(np.tile(np.asarray(rgb, float), (len(f), 1)))
        start += len(v)
    return (
        np.concatenate(vertices),
        np.concatenate(faces),
        np.concatenate(normals),
        np.concatenate(parts),
        np.concatenate(colors),
    )


def _box_blur(a: np.ndarray, r: int) -> np.ndarray:
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (r + 1, r)
        c = np.cumsum(np.pad(a, pad, mode="edge"), axis)
        hi, lo = [slice(None)] * 2, [slice(None)] * 2
        hi[axis], lo[axis] = slice(2 * r + 1, None), slice(None, -2 * r - 1)
        a = (c[tuple(hi)] - c[tuple(lo)]) / (2 * r + 1)
    return a


def _crevices(depth: np.ndarray, radius: int) -> np.ndarray:
    """Returns a factor [h, w] in 0.6..1 that darkens crevices, such as between arm and trunk."""
    shown = np.isfinite(depth)
    filled = np.where(shown, depth, 0.0)
    weight = np.maximum(_box_blur(shown.astype(float), radius), 1e-6)
    near = _box_blur(filled, radius) / weight
    return np.where(shown, 1 - np.clip((filled - near) * 6.0, 0, 0.4), 1.0)


def _draw(person: dict, view: dict, height: int, width: int):
    """Returns the depth, part, RGB and normal of every pixel, and the y pixel of the ground."""
    data = load_body()
    rest, joints = shape_body(person["body"])
    transforms = bone_transforms(joints, view["pose"])
    posed = skin(rest, transforms)
    surface = data["surface"]
    props = _merge_props(prop_pieces(person, rest, posed, transforms))
    layers = _layers(person, posed, surface)
    project = fit_camera(np.concatenate([*_outline(person, layers), props[0]]), view, height, width)
    depth = np.full((height, width), np.inf)
    part = np.zeros((height, width), np.uint8)
    rgb, normal = np.zeros((height, width, 3)), np.zeros((height, width, 3))
    for name, vertices, faces, normals in layers:
        z, index, bary = rasterize(project(vertices), faces, height, width)
        rows, columns = np.nonzero(index >= 0)
        q = interpolate(
            np.concatenate([surface, normals.astype(np.float32)], 1),
            faces,
            index[rows, columns],
            bary[rows, columns],
        )
        painted, color = _paint_layer(name, person, q[:, :5])
        win = (painted > 0) & (z[rows, columns] < depth[rows, columns] + (0.01 if name == "skirt" else 0.002))
        at = (rows[win], columns[win])
        depth[at], part[at], rgb[at], normal[at] = z[at], painted[win], color[win], q[win, 5:]
    vertices, faces, normals, parts, colors = props
    z, index, bary = rasterize(project(vertices), faces, height, width)
    at = np.nonzero((index >= 0) & (z < depth + 0.004))
    face = index[at]
    depth[at], part[at], rgb[at] = z[at], parts[face], colors[face]
    normal[at] = interpolate(normals, faces, face, bary[at])
    ground = project(np.array([[posed[:, 0].mean(), posed[:, 1].mean(), posed[:, 2].min()]]))[0]
    return depth, part, rgb, normal, ground


def paint_person(
    image: Float[np.ndarray, "h w 3"], person: dict, view: dict, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w"]:
    """Draws a person and the shadow on the ground into an image of float RGB in 0..255, in place.

    Args:
      image: the background; the camera frames the person for its size.
      person: from `wardrobe.sample_person`.
      view: from `scene.sample_view`.
      rng: draws the folds of the clothes.

    Returns:
      The part map: indices into `paint.PARTS`, 0 where the person is not.
    """
    h, w = image.shape[:2]
    depth, part, rgb, normal, ground = _draw(person, view, h, w)
    shown = part > 0
    y, x = np.mgrid[:h, :w]
    shadow = np.exp(-(((x - ground[0]) / (0.3 * w)) ** 2 + ((y - ground[1]) / (0.035 * h)) ** 2))
    image *= (1 - 0.55 * shadow)[..., None]
    n = normal[shown]
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)
    light = view["ambient"] * (0.84 + 0.16 * n[:, 2])
    light = light + (1 - view["ambient"]) * 1.3 * np.clip(n @ view["sun"], 0, 1)
    light *= 0.78 + 0.22 * np.abs(n @ camera_axes(view)[0])
    light *= _crevices(depth, max(2, h // 60))[shown]
    cloth = np.isin(part[shown], [PART[name] for name in ("top", "inner", "lower")])
    folds = smooth_noise(rng, h, w, 6)[shown]
    light *= 1 + np.where(cloth, 0.05 * folds, 0.0)
    image[shown] = np.clip(rgb[shown], 0, 255) * light[:, None]
    return part


def render(
    person: dict, view: dict, rng: np.random.Generator, height: int, width: int
) -> dict[str, np.ndarray]:
    """Renders a person in a view.

    Args:
      person: from `wardrobe.sample_person`.
      view: from `scene.sample_view`.
      rng: draws the background and the grain.
      height: the height of the image.
      width: the width of the image.

    Returns:
      The image, uint8 [height, width, 3], and its part map, uint8 [height * 2, width * 2]: indices into
      `paint.PARTS` at the resolution of rendering.
    """
    image = background(rng, person["domain"], height * SUPERSAMPLE, width * SUPERSAMPLE)
    part = paint_person(image, person, view, rng)
    image = (image @ view["sensor"].T) * view["balance"] * view["exposure"]
    image = np.clip(image, 0, 255).astype(np.uint8)
    small = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    if view["blur"] > 0:
        small = small.filter(ImageFilter.GaussianBlur(view["blur"] * height / 192))
    out = np.asarray(small, np.float32) + rng.normal(0, 1, (height, width, 1)) * view["noise"]
    return {"image": np.clip(out, 0, 255).astype(np.uint8), "parts": part}
