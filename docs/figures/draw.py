"""Draws the figures of docs/methods.md.

    python docs/figures/draw.py [FOLDER]      # by default, next to this script

Coordinates are about a centimeter, with y downward. Frozen modules of CLIP are gray, trained modules orange.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch

KINDS = {  # face, edge, line
    "clip": ("#e9ebee", "#6b7280", "-"),
    "part": ("#ffe3c2", "#c2570c", "-"),
    "slot": ("#fff7ed", "#c2570c", "--"),
    "pale": ("#ffffff", "#c9cdd3", "-"),
}
INK, TRAINED, UNIT = "#1f2937", "#a8440a", 0.46  # UNIT: inches a coordinate
Point = tuple[float, float]


def canvas(width: float, height: float) -> Axes:
    figure = plt.figure(figsize=(width * UNIT, height * UNIT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return axes


def box(
    axes: Axes, x: float, y: float, w: float, h: float, text: str = "", kind: str = "clip", size=9, layer=2
):
    """Draws a rounded box centered at (x, y). On layer 0 it lies under the lines."""
    face, edge, line = KINDS[kind]
    style = "round,pad=0,rounding_size=0.14"
    patch = FancyBboxPatch(
        (x - w / 2, y - h / 2), w, h, style, fc=face, ec=edge, ls=line, lw=1.1, zorder=layer
    )
    axes.add_patch(patch)
    label(axes, x, y, text, size, TRAINED if kind in ("part", "slot") else INK)


def label(axes: Axes, x: float, y: float, text: str, size: float = 9, color: str = INK, ha: str = "center"):
    axes.text(x, y, text, size=size, color=color, ha=ha, va="center", zorder=4, linespacing=1.35)


def plus(axes: Axes, x: float, y: float, text: str = "+"):
    axes.add_patch(Circle((x, y), 0.24, fc="white", ec=INK, lw=1.1, zorder=3))
    label(axes, x, y, text, 10)


def arrow(axes: Axes, points: Sequence[Point], color: str = INK, head: bool = True):
    """Draws a line through the points, with an arrowhead at its end."""
    *_, before, last = points
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color=color, lw=1.2, solid_joinstyle="round", zorder=1)
    if head:
        style = {
            "arrowstyle": "-|>",
            "color": color,
            "lw": 1.2,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 9,
        }
        axes.annotate("", last, before, arrowprops=style, zorder=1)


def legend(axes: Axes, x: float, y: float, kinds: Sequence[tuple[str, str]]):
    for kind, text in kinds:
        box(axes, x + 0.2, y, 0.4, 0.3, kind=kind)
        label(axes, x + 0.55, y, text, 8, ha="left")
        x += 0.9 + 0.175 * len(text)


def clip_block() -> Axes:
    axes = canvas(12, 15.4)
    stream, path, beside = 1.1, 4.2, 7.7
    legend(axes, 0.5, 0.45, [("clip", "CLIP, frozen"), ("slot", "a slot for a module")])
    label(axes, stream, 1.15, "x", 11)
    arrow(axes, [(stream, 1.4), (stream, 7.16)])
    arrow(axes, [(stream, 1.8), (path, 1.8), (path, 2.1)])
    arrow(axes, [(path, 1.8), (beside, 1.8), (beside, 2.1)], TRAINED)
    box(axes, path, 2.5, 2.6, 0.8, "LayerNorm 1")
    box(axes, beside, 2.5, 2.6, 0.8, "beside_ln_1", "slot")
    arrow(axes, [(path, 2.9), (path, 3.41)])
    arrow(axes, [(beside, 2.9), (beside, 3.65), (path + 0.24, 3.65)], TRAINED)
    plus(axes, path, 3.65)
    arrow(axes, [(path, 3.89), (path, 4.3)])
    box(axes, path, 5.0, 2.6, 1.4, "attention\nq  k  v  out")
    for y, text in ((4.62, "lora_q  lora_k  lora_v  lora_out"), (5.38, "prefix: more keys and values")):
        box(axes, 8.7, y, 5.4, 0.6, text, "slot", 8.5)
        arrow(axes, [(6.0, y), (5.5, y)], TRAINED)
    arrow(axes, [(path, 5.7), (path, 6.1)])
    box(axes, path, 6.5, 2.6, 0.8, "after_attn", "slot")
    label(axes, 5.7, 6.5, "z + module(z)", 8.5, ha="left")
    arrow(axes, [(path, 6.9), (path, 7.4), (stream + 0.24, 7.4)])
    plus(axes, stream, 7.4)
    label(axes, stream - 0.45, 8.0, "h", 11)
    arrow(axes, [(stream, 7.64), (stream, 13.96)])
    arrow(axes, [(stream, 8.4), (path, 8.4), (path, 8.7)])
    arrow(axes, [(path, 8.4), (beside, 8.4), (beside, 8.7)], TRAINED)
    arrow(axes, [(beside, 8.4), (10.6, 8.4), (10.6, 10.75)], TRAINED)
    box(axes, path, 9.1, 2.6, 0.8, "LayerNorm 2")
    box(axes, beside, 9.1, 2.6, 0.8, "beside_ln_2", "slot")
    arrow(axes, [(path, 9.5), (path, 10.01)])
    arrow(axes, [(beside, 9.5), (beside, 10.25), (path + 0.24, 10.25)], TRAINED)
    plus(axes, path, 10.25)
    arrow(axes, [(path, 10.49), (path, 10.9)])
    box(axes, path, 11.6, 2.6, 1.4, "MLP\nfc, GELU, proj")
    box(axes, beside, 11.6, 2.6, 0.6, "lora_fc  lora_proj", "slot", 8.5)
    arrow(axes, [(6.4, 11.6), (5.5, 11.6)], TRAINED)
    box(axes, 10.6, 11.25, 2.2, 1.0, "beside_mlp", "slot")
    arrow(axes, [(path, 12.3), (path, 12.7)])
    box(axes, path, 13.1, 2.6, 0.8, "after_mlp", "slot")
    label(axes, 5.7, 13.1, "z + module(z)", 8.5, ha="left")
    arrow(axes, [(path, 13.5), (path, 14.2), (stream + 0.24, 14.2)])
    arrow(axes, [(10.6, 11.75), (10.6, 14.2), (path, 14.2)], TRAINED, head=False)
    plus(axes, stream, 14.2)
    arrow(axes, [(stream, 14.44), (stream, 14.85)])
    label(axes, stream, 15.1, "y", 11)
    return axes


def dm_adapter() -> Axes:
    axes = canvas(12, 14.6)
    stream, mlp, experts = 0.9, 2.9, [4.9 + 1.28 * i for i in range(6)]
    center = sum(experts) / 6
    legend(
        axes,
        0.5,
        0.45,
        [("clip", "CLIP, frozen"), ("part", "trained"), ("pale", "not selected for this token")],
    )
    label(axes, stream, 1.2, "h", 11)
    arrow(axes, [(stream, 1.45), (stream, 12.66)])
    arrow(axes, [(stream, 1.8), (mlp, 1.8), (mlp, 2.1)])
    arrow(axes, [(mlp, 1.8), (center, 1.8), (center, 2.1)], TRAINED)
    box(axes, mlp, 2.5, 1.7, 0.8, "LayerNorm 2", size=8)
    arrow(axes, [(mlp, 2.9), (mlp, 8.8)])
    box(axes, mlp, 9.2, 1.7, 0.8, "MLP")
    box(axes, center, 2.5, 2.6, 0.8, "LayerNorm 3", "part")
    arrow(axes, [(center, 2.9), (center, 3.65)], TRAINED)
    label(axes, center + 0.3, 3.25, "u, one token", 8.5, ha="left")
    box(axes, center, 5.5, 7.5, 3.7, kind="slot", layer=0)
    label(axes, 4.45, 3.95, "domain-aware router", 8.5, TRAINED, "left")
    box(axes, 6.0, 4.65, 2.6, 0.7, "$(1-a)\\;W_{in}\\,u$", "part")
    box(axes, 6.0, 6.05, 2.6, 0.7, "$a\\;W_{task}\\,p$", "part")
    label(axes, 4.7, 6.8, "p: the block's domain prompt\na: learned, from 0.5", 8, ha="left")
    plus(axes, 7.85, 5.35)
    arrow(axes, [(7.3, 4.65), (7.85, 4.65), (7.85, 5.11)], TRAINED)
    arrow(axes, [(7.3, 6.05), (7.85, 6.05), (7.85, 5.59)], TRAINED)
    arrow(axes, [(8.09, 5.35), (8.65, 5.35)], TRAINED)
    for i, height in enumerate((0.5, 1.5, 0.7, 0.35, 1.2, 0.6)):
        face, edge, _ = KINDS["part" if i in (1, 4) else "pale"]
        axes.bar(8.95 + 0.42 * i, -height, 0.3, bottom=6.1, fc=face, ec=edge, lw=1, zorder=3)
    axes.plot([8.7, 11.3], [6.1, 6.1], color=INK, lw=1, zorder=4)
    label(axes, 10.0, 6.5, "six logits g", 8)
    label(axes, 10.0, 6.95, "top 2, then softmax", 8)
    for i, x in enumerate(experts):
        kind = "part" if i in (1, 4) else "pale"
        box(axes, x, 9.2, 1.1, 1.7, f"expert\n{i + 1}", kind, 8)
        if kind == "part":
            arrow(axes, [(x, 7.35), (x, 8.35)], TRAINED)
            arrow(axes, [(x, 10.05), (x, 11.1), (center + (0.24 if x > center else -0.24), 11.1)], TRAINED)
            label(axes, x + 0.12, 10.55, f"$w_{i + 1}$", 9, TRAINED, "left")
    label(axes, center + 0.05, 10.42, "Up(ReLU(Down(u))),\nd to d/8 to d", 8)
    plus(axes, center, 11.1)
    arrow(axes, [(center, 11.34), (center, 11.65)], TRAINED)
    box(axes, center, 12.0, 3.4, 0.7, "times s: 0.1 vision, 4.0 text", "clip", 8)
    arrow(axes, [(center, 12.35), (center, 12.9), (mlp, 12.9)], TRAINED, head=False)
    arrow(axes, [(mlp, 9.6), (mlp, 12.9), (stream + 0.24, 12.9)])
    plus(axes, stream, 12.9)
    arrow(axes, [(stream, 13.14), (stream, 13.65)])
    label(axes, stream, 13.95, "y", 11)
    label(axes, center, 13.8, "trained with SDM + 0.5 · balance of the 24 mixtures", 8.5)
    return axes


def up_person() -> Axes:
    axes = canvas(12, 15.6)
    stream, path, beside = 0.9, 3.2, 5.9
    legend(axes, 0.5, 0.45, [("clip", "CLIP, frozen"), ("part", "trained")])
    label(axes, stream, 1.15, "x", 11)
    arrow(axes, [(stream, 1.4), (stream, 9.86)])
    arrow(axes, [(stream, 1.8), (path, 1.8), (path, 2.1)])
    arrow(axes, [(path, 1.8), (beside, 1.8), (beside, 2.1)], TRAINED)
    box(axes, path, 2.5, 2.1, 0.8, "LayerNorm 1")
    box(axes, beside, 2.5, 2.5, 0.8, "$s_1$ · L-Adapter", "part")
    label(axes, 7.35, 2.5, "reads x before the norm;\nd to d/8 to d", 8, ha="left")
    arrow(axes, [(path, 2.9), (path, 3.41)])
    arrow(axes, [(beside, 2.9), (beside, 3.65), (path + 0.24, 3.65)], TRAINED)
    plus(axes, path, 3.65)
    arrow(axes, [(path, 3.89), (path, 4.2)])
    box(axes, 6.3, 6.75, 9.6, 5.1, layer=0)
    label(axes, 1.75, 4.55, "attention of a block", 8.5, ha="left")
    box(axes, 3.0, 5.35, 2.3, 0.8, "$q=W_q u$")
    for y, name in ((6.55, "k"), (7.75, "v")):
        text = f"${name}=(W_{name}+c_{name}B_{name}A_{name})\\,u$"
        box(axes, 3.35, y, 3.0, 0.8, text, "part", 9)
    label(axes, 3.35, 8.5, "LoRA, rank 32", 8, TRAINED)
    left, top, cell, rows, prefix = 6.5, 5.4, 0.42, 7, 3
    for row in range(rows):
        for column in range(rows + prefix):
            mine = 1 <= column <= prefix
            seen = mine or (column if column == 0 else column - prefix) <= row
            kind = ("part" if mine else "clip") if seen else "pale"
            face, edge, _ = KINDS[kind]
            face = "#cdd2d9" if kind == "clip" else face
            corner = (left + column * cell, top + row * cell)
            axes.add_patch(
                plt.Rectangle(corner, cell, cell, fc=face, ec="white" if seen else edge, lw=0.8, zorder=3)
            )
    label(axes, left + 2.5 * cell, top - 0.3, "prefix", 8.5, TRAINED)
    label(axes, left + 7 * cell, top - 0.3, "the sentence, causal", 8.5)
    label(axes, left + 5 * cell, 8.62, "softmax over all columns,", 8)
    label(axes, left + 5 * cell, 9.02, "then the prefix columns times the gate", 8, TRAINED)
    arrow(axes, [(4.85, 7.0), (6.3, 7.0)])
    arrow(axes, [(path, 9.3), (path, 10.1), (stream + 0.24, 10.1)])
    plus(axes, stream, 10.1)
    arrow(axes, [(stream, 10.34), (stream, 14.26)])
    arrow(axes, [(stream, 10.8), (path, 10.8), (path, 11.1)])
    arrow(axes, [(path, 10.8), (beside, 10.8), (beside, 11.1)], TRAINED)
    box(axes, path, 11.5, 2.1, 0.8, "LayerNorm 2")
    box(axes, beside, 11.5, 2.5, 0.8, "$s_2$ · L-Adapter", "part")
    arrow(axes, [(path, 11.9), (path, 12.41)])
    arrow(axes, [(beside, 11.9), (beside, 12.65), (path + 0.24, 12.65)], TRAINED)
    plus(axes, path, 12.65)
    arrow(axes, [(path, 12.89), (path, 13.2)])
    box(axes, path, 13.6, 2.1, 0.8, "MLP")
    arrow(axes, [(path, 14.0), (path, 14.5), (stream + 0.24, 14.5)])
    plus(axes, stream, 14.5)
    arrow(axes, [(stream, 14.74), (stream, 15.05)])
    label(axes, stream, 15.3, "y", 11)
    label(
        axes,
        7.35,
        13.1,
        "prefix: 10 learned keys and\nvalues per block, inserted\nafter the projections and\nthe first token",
        8,
        ha="left",
    )
    return axes


def tokens(axes: Axes, y: float, groups: Sequence[tuple[str, str, float]], left: float) -> dict[str, Point]:
    """Draws a row of token groups (text, kind, width); returns the center of each by its text."""
    centers, x = {}, left
    for text, kind, width in groups:
        box(axes, x + width / 2, y, width - 0.08, 0.85, text, kind, 8.5)
        centers[text] = (x + width / 2, y)
        x += width
    return centers


def cskt() -> Axes:
    axes = canvas(12, 15.2)
    legend(
        axes,
        0.5,
        0.45,
        [("clip", "CLIP, frozen"), ("part", "trained"), ("slot", "mapped from the other tower")],
    )
    for top, text_prompt, image_prompt, when in (
        (1.3, "ctx", "v_0", "before the first block"),
        (6.0, "t_i", "v_i", "on entering block i = 1 … 11, at the same positions"),
    ):
        own_text = f"${text_prompt}$ × 4"
        mapped_text = f"$g_{image_prompt[-1]}({image_prompt})$ × 4"
        mapped_image = f"$f_{image_prompt[-1]}({text_prompt})$ × 4"
        own_image = f"${image_prompt}$ × 4"
        label(axes, 0.5, top, when, 9, ha="left")
        label(axes, 0.5, top + 0.62, "text", 8.5, ha="left")
        text = tokens(
            axes,
            top + 1.2,
            [
                ("start", "clip", 1.3),
                (own_text, "part", 2.2),
                (mapped_text, "slot", 2.4),
                ("words … end", "clip", 5.1),
            ],
            0.5,
        )
        label(axes, 0.5, top + 4.05, "vision", 8.5, ha="left")
        vision = tokens(
            axes,
            top + 3.4,
            [
                ("CLS", "clip", 1.3),
                ("patches", "clip", 5.1),
                (mapped_image, "slot", 2.4),
                (own_image, "part", 2.2),
            ],
            0.5,
        )
        (a, ya), (b, yb) = text[own_text], vision[mapped_image]
        arrow(axes, [(a, ya + 0.43), (a, ya + 0.85), (b, ya + 0.85), (b, yb - 0.43)], TRAINED)
        (c, yc), (d, yd) = vision[own_image], text[mapped_text]
        arrow(axes, [(c, yc - 0.43), (c, yc - 0.75), (d, yc - 0.75), (d, yd + 0.43)], TRAINED)
        label(axes, 3.1, top + 1.85, "f: 512 to 768", 8, TRAINED, "left")
        label(axes, 8.3, top + 2.43, "g: 768 to 512", 8, TRAINED, "left")
    label(axes, 0.5, 11.0, "and in each block of both towers, beside the MLP", 9, ha="left")
    stream, path, beside = 1.0, 3.6, 7.4
    label(axes, stream, 11.6, "h", 11)
    arrow(axes, [(stream, 11.85), (stream, 13.96)])
    arrow(axes, [(stream, 12.1), (path, 12.1), (path, 12.4)])
    arrow(axes, [(path, 12.1), (beside, 12.1), (beside, 12.4)], TRAINED)
    box(axes, path, 12.8, 3.2, 0.8, "LayerNorm 2, MLP")
    box(axes, beside, 12.8, 3.4, 0.8, "LayerNorm 3, adapter", "part")
    label(axes, 9.3, 12.8, "times s:\n0.1 vision, 4.0 text", 8, ha="left")
    arrow(axes, [(path, 13.2), (path, 14.2), (stream + 0.24, 14.2)])
    arrow(axes, [(beside, 13.2), (beside, 14.2), (path, 14.2)], TRAINED, head=False)
    plus(axes, stream, 14.2)
    arrow(axes, [(stream, 14.44), (stream, 14.7)])
    label(axes, stream, 14.95, "y", 11)
    return axes


FIGURES = {"clip_block": clip_block, "dm_adapter": dm_adapter, "up_person": up_person, "cskt": cskt}


def draw(folder: Path) -> None:
    """Draws all figures into `folder`. The bytes depend only on the version of matplotlib."""
    settings = {"svg.hashsalt": "tpr_jax", "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}
    with matplotlib.rc_context(settings):
        for name, figure in FIGURES.items():
            axes = figure()
            axes.figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(axes.figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
