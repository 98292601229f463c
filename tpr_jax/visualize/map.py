"""A map of features: what is alike for the model lies close together (t-SNE)."""

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.lines import Line2D

from tpr_jax.errors import UserError
from tpr_jax.metrics.retrieval import l2_normalize
from tpr_jax.model import Model
from tpr_jax.report.png import INK, MUTED, RULE
from tpr_jax.visualize import draw
from tpr_jax.visualize.inputs import Shown, spread
from tpr_jax.visualize.look import photo_feats
from tpr_jax.visualize.page import Picture, figures, page

LEAST, MANY = 4, 5000  # points that a map is made of, and from which on it is worth several threads


def places(feats: Float[np.ndarray, "n e"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Places on a plane by t-SNE (van der Maaten and Hinton, JMLR 2008), from the features' cosines.

    Raises:
      UserError: too few features, or scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise UserError("map needs scikit-learn: pip install scikit-learn") from None
    if len(feats) < LEAST:
        raise UserError(f"a map wants at least {LEAST} photos and sentences together, here are {len(feats)}")
    # Of unit vectors the squared distance is twice 1 - cosine.
    perplexity = min(30.0, (len(feats) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    # Threads that wait for each other in a loop take minutes for few points where the cores are busy.
    with threadpool_limits(1 if len(feats) < MANY else None):
        return model.fit_transform(l2_normalize(feats).astype(np.float64))


def of_some(shown: Shown, identities: int) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " t"]]:
    """(rows of photos, rows of texts) of identities spread over the split; all where nobody is known."""
    if shown.photo_pids is None:
        return np.arange(len(shown.photos)), np.arange(len(shown.texts))
    pids = np.unique(shown.photo_pids)
    chosen = pids[spread(len(pids), identities)]
    photos = np.flatnonzero(np.isin(shown.photo_pids, chosen))
    if shown.text_pids is None:
        return photos, np.arange(len(shown.texts))
    return photos, np.flatnonzero(np.isin(shown.text_pids, chosen))


def make(model: Model, shown: Shown, *, title: str, identities: int, seed: int) -> dict[str, bytes]:
    """map.html and map.png."""
    photos, texts = of_some(shown, identities)
    feats = photo_feats(model, [shown.photos[row] for row in photos])
    if len(texts):
        feats = np.concatenate([feats, model.encode_texts([shown.texts[row] for row in texts])])
    is_text = np.arange(len(feats)) >= len(photos)
    at = places(feats, seed)
    known = shown.photo_pids is not None and (shown.text_pids is not None or not len(texts))
    if known:
        pids = shown.photo_pids[photos]
        pids = np.concatenate([pids, shown.text_pids[texts]]) if len(texts) else pids
        who, group = np.unique(pids, return_inverse=True)
        names, marks = [f"person {pid}" for pid in who], []
        found = (
            f"{len(photos)} photos and {len(texts)} captions of {len(who)} people of {shown.label}, a "
            "color a person."
        )
    else:
        group, names = is_text.astype(int), ["photos", "sentences"][: 1 + bool(len(texts))]
        marks = [(len(photos) + i, str(i + 1)) for i in range(len(texts))]
        told = "; ".join(f"{i + 1}: {shown.texts[row]}" for i, row in enumerate(texts[:30]))
        found = f"{len(photos)} photos" + (f" and {len(texts)} sentences ({told})" if told else "") + "."
    note = f"{found} Circles are photos, crosses sentences. Features compared by cosine; seed {seed}."
    lead = [
        "Each point is a feature of the model. t-SNE lays them out so that those which are near each "
        "other in the model's own space of many numbers stay near each other here. Near and far within a "
        "group can be trusted; the distances between groups, their sizes and the directions of the page "
        "mean nothing. Another seed gives another map.",
        "CLIP often puts photos and sentences into two regions of its space, apart from each other; "
        "retrieval only needs the right photo to be nearer to the sentence than the other photos are.",
    ]
    image = draw_map(at, group, is_text, names, marks)
    picture = Picture("map.png", image, "Map", note, "Points on a plane")
    return {"map.html": page(title, lead, figures([picture])).encode(), "map.png": image}


def draw_map(
    at: Float[np.ndarray, "n 2"],
    group: Int[np.ndarray, " n"],
    is_text: Bool[np.ndarray, " n"],
    names: list[str],
    marks: list[tuple[int, str]],
) -> bytes:
    """Circles for photos, crosses for texts, a color a group; `marks` are points with a label."""
    figure = draw.new_figure(10, 7)
    axes = figure.add_axes((0.02, 0.03, 0.79, 0.94))
    colors = np.array(_colors(len(names)))[group]
    photo = ~is_text
    axes.scatter(*at[photo].T, c=colors[photo], s=52, linewidths=0.6, edgecolors="white", zorder=3)
    axes.scatter(*at[is_text].T, c=colors[is_text], s=44, marker="x", linewidths=1.8, zorder=2)
    for point, label in marks:
        offset = {"xytext": (6, 4), "textcoords": "offset points"}
        axes.annotate(label, at[point], size=10, color=INK, parse_math=False, **offset)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    style = {"linestyle": "", "color": MUTED}
    kinds = [Line2D([], [], marker="o", label="photo", **style)]
    kinds += [Line2D([], [], marker="x", label="sentence", **style)] * bool(is_text.any())
    if len(names) <= 24:
        plain = {"linestyle": "", "marker": "s"}
        kinds += [
            Line2D([], [], color=color, label=name, **plain)
            for name, color in zip(names, _colors(len(names)), strict=True)
        ]
    figure.legend(handles=kinds, loc="center left", bbox_to_anchor=(0.82, 0.5), frameon=False, fontsize=9)
    return draw.to_png(figure)


def _colors(count: int) -> list:
    """As `draw.colors`; up to 20 from a table that tells them apart better than a circle of hues."""
    from matplotlib import colormaps

    return (
        draw.colors(count) if count <= 8 or count > 20 else [colormaps["tab20"](i)[:3] for i in range(count)]
    )
