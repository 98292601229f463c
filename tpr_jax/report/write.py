"""A run as a page and a picture: curves, the table before and after, and what the first queries found.

`write_report` is all that the trainer needs; html.py and png.py draw what is prepared here.
"""

import math
from pathlib import Path

from PIL import Image, ImageDraw

from tpr_jax.data.images.read import read_image
from tpr_jax.errors import UserError
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.utils.files import write_whole

METHOD_NAMES = {
    "dm_adapter": "DM-Adapter",
    "parallel_adapter": "Parallel adapter",
    "full_finetune": "Full fine-tuning",
    "zero_shot": "Zero-shot CLIP",
    "up_person": "UP-Person",
    "cskt": "CSKT",
    "irra": "IRRA",
}
DATASET_NAMES = {
    "mini_pedes": "MiniPEDES, rendered",
    "cuhk_pedes": "CUHK-PEDES",
    "icfg_pedes": "ICFG-PEDES",
    "rstp_reid": "RSTPReid",
    "ufine6926": "UFine6926",
    "synth_pedes": "SYNTH-PEDES",
    "folder": "own data",
}
THUMBNAIL_SIZE = (128, 256)  # the most a photo may take of the page, (width, height) in pixels


def write_report(workdir, *, history: list[dict], results: dict, retrievals: list[dict]) -> tuple[str, str]:
    """Writes report.html (self-contained) and report.png into `workdir` and returns their paths.

    history: the rows of metrics.jsonl; those with "loss" make the loss curve, those with "val" (or "test")
        the R@1 curve: {"step", "epoch", "loss", ...}, {"step", "epoch", "val": {"t2i": {...}, "i2t": {...}}}.
    results: results.json; parts that are missing are left out of the table.
    retrievals: one object a query, {"caption", "pid", "ranked": [{"path", "pid", "score"}, ...]}, best first.
        A photo that cannot be read is drawn as an empty frame.

    Raises UserError where `workdir` cannot be written or the disk is full; an older report then stays whole.
    """
    # Imported here: matplotlib takes a second, and only the end of a run wants it.
    from tpr_jax.report import html as report_html
    from tpr_jax.report import png as report_png

    queries = [prepare_query(query) for query in retrievals]
    facts = {
        "title": title(results),
        "tiles": tiles(results),
        "rows": table_rows(results),
        "loss": loss_curve(history),
        "recall": recall_curves(history),
        "queries": queries,
    }
    html_path, png_path = Path(workdir) / "report.html", Path(workdir) / "report.png"
    for path, content in (
        (html_path, report_html.page(facts).encode()),
        (png_path, report_png.picture(facts)),
    ):
        write_whole(path, lambda temporary, content=content: Path(temporary).write_bytes(content))
    return str(html_path), str(png_path)


def title(results: dict) -> str:
    method, dataset = results.get("method", "run"), results.get("dataset", "")
    name = METHOD_NAMES.get(method, method)
    return f"{name} on {DATASET_NAMES.get(dataset, dataset)}" if dataset else name


def tiles(results: dict) -> list[tuple[str, str, str]]:
    """The headline numbers as (label, value, remark)."""
    found = []
    before, after = _metrics(results, "zero_shot", "test"), _metrics(results, "final", "test")
    for way, label in (("t2i", "R@1, text to image"), ("i2t", "R@1, image to text")):
        if before and after:
            a, b = before[way]["R1"], after[way]["R1"]
            found.append((label, f"{a:.1f} → {b:.1f}", f"{b - a:+.1f} on the test split"))
    trainable, total = results.get("trainable_params"), results.get("total_params")
    if trainable and total:
        found.append(
            ("Trained parameters", count(trainable), f"{100 * trainable / total:.1f} % of {count(total)}")
        )
    if results.get("seconds"):
        found.append(("Time", duration(results["seconds"]), f"{results.get('steps', 0):,} steps"))
    return found


def table_rows(results: dict) -> list[tuple[str, dict, bool]]:
    """(label, {"t2i", "i2t"}, whether to stress it) for each set of metrics that `results` holds."""
    best, on_test = results.get("best_on_val") or {}, results.get("best_on_test") or {}
    rows = [
        ("Zero-shot, test", _metrics(results, "zero_shot", "test"), False),
        ("After training, test", _metrics(results, "final", "test"), True),
        (f"Best on val (epoch {best.get('epoch')}), test", best.get("test"), False),
        (f"Best on test itself (epoch {on_test.get('epoch')}), as papers do", on_test.get("test"), False),
        ("After training, val", _metrics(results, "final", "val"), False),
    ]
    return [(label, metrics, stress) for label, metrics, stress in rows if metrics]


def loss_curve(history: list[dict]) -> list[tuple[float, float]]:
    """(step, loss) of every logged step with a finite loss."""
    points = [(row["step"], row["loss"]) for row in history if "loss" in row and "step" in row]
    return [(x, y) for x, y in points if math.isfinite(y)]


def recall_curves(history: list[dict]) -> dict[str, list[tuple[float, float]]]:
    """R@1 by epoch under the labels of its two directions; on val where there is one, else on test."""
    split = "val" if any("val" in row for row in history) else "test"
    rows = [row for row in history if split in row and "epoch" in row]
    names = {"t2i": f"text to image, {split}", "i2t": f"image to text, {split}"}
    curves = {label: [(r["epoch"], r[split][way]["R1"]) for r in rows] for way, label in names.items()}
    return {label: points for label, points in curves.items() if points}


def smoothed(points: list[tuple[float, float]], share: float = 0.05) -> list[tuple[float, float]]:
    """Moving mean over a window of `share` of the points, centered except that it stops at the two ends."""
    half = max(1, int(len(points) * share / 2))
    windows = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [(x, sum(y for _, y in w) / len(w)) for (x, _), w in zip(points, windows, strict=True)]


def prepare_query(query: dict) -> dict:
    """Each photo's small picture ("image", PIL) and if it is "right"; "first_right" is a rank or None."""
    ranked = [
        {"image": thumbnail(r["path"]), "score": float(r["score"]), "right": r["pid"] == query["pid"]}
        for r in query["ranked"]
    ]
    first = next((rank for rank, r in enumerate(ranked, 1) if r["right"]), None)
    return {"caption": query["caption"], "ranked": ranked, "first_right": first}


def thumbnail(source) -> Image.Image:
    """The photo (whatever `read_image` reads), no larger than THUMBNAIL_SIZE; an empty frame without one."""
    try:
        small = Image.fromarray(read_image(source))
    except UserError:
        small = Image.new("RGB", (64, 192), "#9aa0a8")
        ImageDraw.Draw(small).line([(0, 0), (64, 192)], fill="#7a8088", width=2)
    small.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return small


def photo_aspect(queries: list[dict]) -> float:
    """Height over width of the middle photo, within 1.5 and 3.2: the shape that all are shown in."""
    ratios = sorted(r["image"].height / r["image"].width for q in queries for r in q["ranked"])
    return min(3.2, max(1.5, ratios[len(ratios) // 2])) if ratios else 3.0


def count(n: int) -> str:
    """1234567 -> "1.23 M"."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(n)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _metrics(results, when, split):
    metrics = (results.get(when) or {}).get(split)
    return (
        metrics if metrics and all(k in metrics[way] for way in ("t2i", "i2t") for k in METRIC_KEYS) else None
    )
