"""Maps features to the plane by t-SNE, so that similar images and texts lie close together."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.lines import Line2D

from tpr_jax.errors import UserError
from tpr_jax.model import Model
from tpr_jax.report.style import INK, MUTED, RULE
from tpr_jax.utils.normalize import l2_normalize
from tpr_jax.utils.plural import counted
from tpr_jax.visualize import draw
from tpr_jax.visualize.features import encode_images
from tpr_jax.visualize.inputs import Examples, evenly_spaced
from tpr_jax.visualize.page import PageFigure, render_figures, render_page

MIN_POINTS = 4
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
            f"{len(photos)} photos"
            + (f" and {len(texts)} sentences ({sentences})" if sentences else "")
            + "."
        )
    note = f"{summary} Circles are photos, crosses are sentences. Features compared by cosine; seed {seed}."
    lead = [
        "Each point is a feature of the model. t-SNE keeps features that are close in the model's own space "
        "close to each other on the map. Distances within a group are meaningful; distances between groups, "
        "sizes of groups and directions are not. Another seed gives another map.",
        "CLIP often places photos and sentences in two separate regions of its space; retrieval only needs "
        "the right photo to be closer to the sentence than the other photos are.",
    ]
    image = draw_map(points, group, is_text, names, marks)
    page_figure = PageFigure("map.png", image, "Map", note, "Points on a plane")
    return {"map.html": render_page(title, lead, render_figures([page_figure])).encode(), "map.png": image}


def draw_map(
    points: Float[np.ndarray, "n 2"],
    group: Int[np.ndarray, " n"],
    is_text: Bool[np.ndarray, " n"],
    names: list[str],
    marks: list[tuple[int, str]],
) -> bytes:
    """Draws circles for images and crosses for texts, in a color per group.

    Args:
      points: coordinates.
      group: index into `names`.
      is_text: which points are texts.
      names: labels of the groups, for the legend.
      marks: (index, label) of points to annotate.
    """
    figure = draw.new_figure(10, 7)
    axes = figure.add_axes((0.02, 0.03, 0.79, 0.94))
    colors = np.array(_colors(len(names)))[group]
    photo = ~is_text
    axes.scatter(*points[photo].T, c=colors[photo], s=52, linewidths=0.6, edgecolors="white", zorder=3)
    axes.scatter(*points[is_text].T, c=colors[is_text], s=44, marker="x", linewidths=1.8, zorder=2)
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
    kinds = [Line2D([], [], marker="o", label="photo", **style)]
    kinds += [Line2D([], [], marker="x", label="sentence", **style)] * bool(is_text.any())
    if len(names) <= 24:
        plain: dict[str, Any] = {"linestyle": "", "marker": "s"}
        kinds += [
            Line2D([], [], color=color, label=name, **plain)
            for name, color in zip(names, _colors(len(names)), strict=True)
        ]
    figure.legend(handles=kinds, loc="center left", bbox_to_anchor=(0.82, 0.5), frameon=False, fontsize=9)
    return draw.to_png(figure)


def _colors(count: int) -> list:
    """Returns `draw.palette`, or for 9 to 20 colors a table with more contrast."""
    if 8 < count <= 20:
        return [colormaps["tab20"](i)[:3] for i in range(count)]
    return draw.palette(count)
