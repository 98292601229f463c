"""Prepares the contents of a report from a run's history, results and example retrievals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw

from tpr_jax.data import datasets
from tpr_jax.data.images.read import read_image
from tpr_jax.errors import UserError
from tpr_jax.metrics.remarks import remarks
from tpr_jax.metrics.retrieval import METRIC_KEYS

METHOD_NAMES = {
    "dm_adapter": "DM-Adapter",
    "parallel_adapter": "Parallel adapter",
    "full_finetune": "Full fine-tuning",
    "zero_shot": "Zero-shot CLIP",
    "up_person": "UP-Person",
    "cskt": "CSKT",
    "irra": "IRRA",
}
THUMBNAIL_SIZE = (128, 256)  # maximum (width, height) in pixels

Points = list[tuple[int | float, int | float]]


class Tile(NamedTuple):
    """A headline number."""

    label: str
    value: str
    remark: str


class TableRow(NamedTuple):
    """The metrics of one state of the model on one split, `{"t2i": {...}, "i2t": {...}}`."""

    label: str
    metrics: Mapping
    emphasized: bool = False


class RankedImage(NamedTuple):
    """A retrieved image: its thumbnail, its score, and whether it shows the person of the query."""

    thumbnail: Image.Image
    score: float
    is_match: bool


class QueryResult(NamedTuple):
    """A query with its images, best first; `first_match` is the rank of the first match, from 1."""

    caption: str
    ranked: list[RankedImage]
    first_match: int | None


@dataclass(frozen=True)
class ReportFacts:
    """Everything that a report shows.

    Attributes:
      title: the method and the data set.
      remarks: what the scores depend on.
      tiles: headline numbers.
      rows: metrics before and after training.
      loss: (step, loss).
      recall: label -> (epoch, R@1 in percent), for each direction.
      queries: example queries and what they retrieve.
    """

    title: str
    remarks: list[str]
    tiles: list[Tile]
    rows: list[TableRow]
    loss: Points
    recall: dict[str, Points]
    queries: list[QueryResult]


def gather_facts(history: Sequence[Mapping], results: Mapping, retrievals: Sequence[Mapping]) -> ReportFacts:
    """Prepares a report; the arguments are those of `report.write.write_report`."""
    return ReportFacts(
        title=title(results),
        remarks=remarks(results),
        tiles=tiles(results),
        rows=table_rows(results),
        loss=loss_curve(history),
        recall=recall_curves(history),
        queries=[prepare_query(query) for query in retrievals],
    )


def title(results: Mapping) -> str:
    """Names the method and the data set."""
    method, dataset = results.get("method", "run"), results.get("dataset", "")
    name = METHOD_NAMES.get(method, method)
    return f"{name} on {datasets.label(dataset)}" if dataset else name


def tiles(results: Mapping) -> list[Tile]:
    """Computes the headline numbers: R@1 before and after, trained parameters, time."""
    headline = []
    before, after = _metrics(results, "zero_shot", "test"), _metrics(results, "final", "test")
    for direction, label in (("t2i", "R@1, text to image"), ("i2t", "R@1, image to text")):
        if before and after:
            a, b = before[direction]["R1"], after[direction]["R1"]
            headline.append(Tile(label, f"{a:.1f} → {b:.1f}", f"{b - a:+.1f} on the test split"))
    trainable, total = results.get("trainable_params"), results.get("total_params")
    if trainable and total:
        share = f"{100 * trainable / total:.1f} % of {format_count(total)}"
        headline.append(Tile("Trained parameters", format_count(trainable), share))
    if results.get("seconds"):
        steps = f"{results.get('steps', 0):,} steps"
        headline.append(Tile("Time", format_duration(results["seconds"]), steps))
    return headline


def table_rows(results: Mapping) -> list[TableRow]:
    """Returns a row for each set of metrics that `results` holds."""
    best, on_test = results.get("best_on_val") or {}, results.get("best_on_test") or {}
    rows = [
        ("Zero-shot, test", _metrics(results, "zero_shot", "test"), False),
        ("After training, test", _metrics(results, "final", "test"), True),
        (f"Best on val (epoch {best.get('epoch')}), test", best.get("test"), False),
        (f"Best on test itself (epoch {on_test.get('epoch')}), as papers do", on_test.get("test"), False),
        ("After training, val", _metrics(results, "final", "val"), False),
    ]
    return [TableRow(label, metrics, emphasized) for label, metrics, emphasized in rows if metrics]


def loss_curve(history: Sequence[Mapping]) -> Points:
    """Returns (step, loss) of every logged step with a finite loss."""
    points = [(row["step"], row["loss"]) for row in history if "loss" in row and "step" in row]
    return [(x, y) for x, y in points if math.isfinite(y)]


def recall_curves(history: Sequence[Mapping]) -> dict[str, Points]:
    """Returns R@1 by epoch for the two directions, on val if it was evaluated, else on test."""
    split = "val" if any("val" in row for row in history) else "test"
    rows = [row for row in history if split in row and "epoch" in row]
    labels = {"t2i": f"text to image, {split}", "i2t": f"image to text, {split}"}
    curves = {
        label: [(row["epoch"], row[split][direction]["R1"]) for row in rows]
        for direction, label in labels.items()
    }
    return {label: points for label, points in curves.items() if points}


def moving_average(points: Points, fraction: float = 0.05) -> Points:
    """Averages over a centered window of `fraction` of the points, truncated at both ends."""
    half = max(1, int(len(points) * fraction / 2))
    windows = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [(x, sum(y for _, y in w) / len(w)) for (x, _), w in zip(points, windows, strict=True)]


def prepare_query(query: Mapping) -> QueryResult:
    """Creates the thumbnails of a query `{"caption", "pid", "ranked": [{"path", "pid", "score"}, ...]}`."""
    ranked = [
        RankedImage(make_thumbnail(entry["path"]), float(entry["score"]), bool(entry["pid"] == query["pid"]))
        for entry in query["ranked"]
    ]
    first_match = next((rank for rank, image in enumerate(ranked, 1) if image.is_match), None)
    return QueryResult(query["caption"], ranked, first_match)


def make_thumbnail(source) -> Image.Image:
    """Shrinks an image to THUMBNAIL_SIZE; one that cannot be read becomes an empty frame."""
    try:
        thumbnail = Image.fromarray(read_image(source))
    except UserError:
        thumbnail = Image.new("RGB", (64, 192), "#9aa0a8")
        ImageDraw.Draw(thumbnail).line([(0, 0), (64, 192)], fill="#7a8088", width=2)
    thumbnail.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return thumbnail


def image_aspect(queries: Sequence[QueryResult]) -> float:
    """Returns the median height over width of all images, within [1.5, 3.2]; all are shown in this shape."""
    ratios = sorted(r.thumbnail.height / r.thumbnail.width for query in queries for r in query.ranked)
    return min(3.2, max(1.5, ratios[len(ratios) // 2])) if ratios else 3.0


def format_count(n: int | float) -> str:
    """Formats 1234567 as "1.23 M"."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(n)


def format_duration(seconds: int | float) -> str:
    """Formats 3725 as "1 h 2 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _metrics(results: Mapping, state: str, split: str) -> Mapping | None:
    metrics = (results.get(state) or {}).get(split)
    if not metrics or any(key not in metrics[d] for d in ("t2i", "i2t") for key in METRIC_KEYS):
        return None
    return metrics
