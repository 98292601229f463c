"""Maps features to the plane by t-SNE, so that similar images and texts lie close together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from tpr_jax.data.images.read import read_fitting
from tpr_jax.errors import UserError
from tpr_jax.model import ImageSource, Model
from tpr_jax.report.style import INK, MUTED, RULE
from tpr_jax.utils.normalize import l2_normalize
from tpr_jax.utils.plural import counted
from tpr_jax.visualize import draw
from tpr_jax.visualize.features import encode_images
from tpr_jax.visualize.inputs import Examples, counted, evenly_spaced
from tpr_jax.visualize.page import PageFigure, render_figures, render_page

MIN_POINTS = 4
THUMBNAIL_HEIGHT = (48, 130)  # pixels, for many and for few photos
MULTITHREADED_POINTS = 5000  # from here on several threads are faster


def tsne(feats: Float[np.ndarray, "n e"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Embeds features in the plane by t-SNE of their cosines (van der Maaten and Hinton, JMLR 2008).

    Raises:
      UserError: there are too few features, or scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise UserError("map needs scikit-learn: pip install scikit-learn") from None
    if len(feats) < MIN_POINTS:
        raise UserError(
            f"a map needs at least {MIN_POINTS} photos and sentences together, but got {len(feats)}"
        )
    # The squared distance of unit vectors is 2 (1 - cosine).
    perplexity = min(30.0, (len(feats) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    # On busy cores, threads that spin on each other take minutes even for few points.
    with threadpool_limits(1 if len(feats) < MULTITHREADED_POINTS else None):
        return model.fit_transform(l2_normalize(feats).astype(np.float64))


def select_rows(examples: Examples, identities: int) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " t"]]:
    """Returns the indices of images and texts of `identities` people spread over the split.

    Without identities, returns all indices.
    """
    if examples.image_pids is None:
        return np.arange(len(examples.images)), np.arange(len(examples.texts))
    pids = np.unique(examples.image_pids)
    chosen = pids[evenly_spaced(len(pids), identities)]
    photos = np.flatnonzero(np.isin(examples.image_pids, chosen))
    if examples.text_pids is None:
        return photos, np.arange(len(examples.texts))
    return photos, np.flatnonzero(np.isin(examples.text_pids, chosen))


def make_files(
    model: Model, examples: Examples, *, title: str, identities: int, seed: int
) -> dict[str, bytes]:
    """Renders map.html and map.png."""
    photos, texts = select_rows(examples, identities)
    feats = encode_images(model, [examples.images[row] for row in photos])
    if len(texts):
        feats = np.concatenate([feats, model.encode_texts([examples.texts[row] for row in texts])])
    is_text = np.arange(len(feats)) >= len(photos)
    thumbnails = [] if examples.image_pids is not None else [examples.images[row] for row in photos]
    points = tsne(feats, seed)
    image_pids, text_pids = examples.image_pids, examples.text_pids
    if image_pids is not None and (text_pids is not None or not len(texts)):
        pids = image_pids[photos]
        pids = pids if text_pids is None else np.concatenate([pids, text_pids[texts]])
        who, group = np.unique(pids, return_inverse=True)
        names, marks = [f"person {pid}" for pid in who], []
        summary = (
            f"{counted(len(photos), 'photo')} and {counted(len(texts), 'caption')} of "
            f"{counted(len(who), 'person', 'people')} of {examples.label}, one "
            "color per person."
        )
    else:
        group, names = is_text.astype(int), ["photos", "sentences"][: 1 + bool(len(texts))]
        marks = [(len(photos) + i, str(i + 1)) for i in range(len(texts))]
        sentences = "; ".join(f"{i + 1}: {examples.texts[row]}" for i, row in enumerate(texts[:30]))
        summary = (
            counted(len(photos), "photo")
            + (f" and {counted(len(texts), 'sentence')} ({sentences})" if sentences else "")
            + "."
        )
    circles = "Photos that would cover another one are circles" if thumbnails else "Circles are photos"
    note = f"{summary} {circles}, crosses are sentences. Features compared by cosine; seed {seed}."
    lead = [
        "Each point is a feature of the model. t-SNE keeps features that are close in the model's own space "
        "close to each other on the map. Distances within a group are meaningful; distances between groups, "
        "sizes of groups and directions are not. Another seed gives another map.",
        "CLIP often places photos and sentences in two separate regions of its space; retrieval only needs "
        "the right photo to be closer to the sentence than the other photos are.",
    ]
    image = draw_map(points, group, is_text, names, marks, thumbnails=thumbnails)
    page_figure = PageFigure("map.png", image, "Map", note, "Points on a plane")
    return {"map.html": render_page(title, lead, render_figures([page_figure])).encode(), "map.png": image}


def draw_map(
    points: Float[np.ndarray, "n 2"],
    group: Int[np.ndarray, " n"],
    is_text: Bool[np.ndarray, " n"],
    names: list[str],
    marks: list[tuple[int, str]],
    *,
    thumbnails: Sequence[ImageSource] = (),
) -> bytes:
    """Draws circles for images and crosses for texts, in a color per group.

    Args:
      points: coordinates.
      group: index into `names`.
      is_text: which points are texts.
      names: labels of the groups, for the legend.
      marks: (index, label) of points to annotate.
      thumbnails: the images, which come before the texts, to draw in place of circles. Those that would cover
        another one stay circles.
    """
    figure = draw.new_figure(10, 7)
    axes = figure.add_axes((0.02, 0.03, 0.79, 0.94))
    colors = np.array(_colors(len(names)))[group]
    photo = ~is_text
    axes.scatter(
        *points[photo].T,
        c=colors[photo],
        s=16 if len(thumbnails) else 52,
        linewidths=0.6,
        edgecolors="white",
        zorder=1,
    )
    axes.scatter(*points[is_text].T, c=colors[is_text], s=44, marker="x", linewidths=1.8, zorder=3)
    if len(thumbnails):
        _draw_thumbnails(axes, points[photo], thumbnails)
    for i, label in marks:
        axes.annotate(
            label,
            points[i],
            xytext=(6, 4),
            textcoords="offset points",
            size=10,
            color=INK,
            parse_math=False,
        )
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    style: dict[str, Any] = {"linestyle": "", "color": MUTED}
    photo_label = "another photo" if len(thumbnails) else "photo"
    kinds = [Line2D([], [], marker="o", label=photo_label, **style)]
    kinds += [Line2D([], [], marker="x", label="sentence", **style)] * bool(is_text.any())
    if len(names) <= 24 and not len(thumbnails):
        plain: dict[str, Any] = {"linestyle": "", "marker": "s"}
        kinds += [
            Line2D([], [], color=color, label=name, **plain)
            for name, color in zip(names, _colors(len(names)), strict=True)
        ]
    figure.legend(handles=kinds, loc="center left", bbox_to_anchor=(0.82, 0.5), frameon=False, fontsize=9)
    return draw.to_png(figure)


def _draw_thumbnails(axes: Axes, points: Float[np.ndarray, "p 2"], images: Sequence[ImageSource]) -> None:
    """Draws images at their points, as many as do not cover each other: the first ones first."""
    axes.margins(0.12)  # room for half a thumbnail around the outermost points
    at = axes.transData.transform(points)
    height = np.clip(1000 / np.sqrt(len(images)), *THUMBNAIL_HEIGHT)
    boxes = np.zeros((0, 4))
    for image, point, center in zip(images, points, at, strict=True):
        if ((boxes[:, :2] < center) & (center < boxes[:, 2:])).all(axis=1).any():
            continue  # without reading the image
        # Twice the size, for screens of high density.
        pixels = read_fitting(image, int(2 * height))
        half = np.array([pixels.shape[1], pixels.shape[0]]) * height / max(pixels.shape[:2]) / 2
        box = np.concatenate([center - half, center + half])
        if ((boxes[:, :2] < box[2:]) & (box[:2] < boxes[:, 2:])).all(axis=1).any():
            continue
        boxes = np.concatenate([boxes, box[None]])
        # OffsetImage shows one pixel as one point of 1/72 inch.
        shown = OffsetImage(pixels, zoom=72 / draw.DPI * height / max(pixels.shape[:2]))
        axes.add_artist(AnnotationBbox(shown, tuple(point), pad=0, frameon=False, zorder=2))


def _colors(count: int) -> list:
    """Returns `draw.palette`, or for 9 to 20 colors a table with more contrast."""
    if 8 < count <= 20:
        return [colormaps["tab20"](i)[:3] for i in range(count)]
    return draw.palette(count)
