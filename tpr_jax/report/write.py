"""Writes a run as a page (report.html) and as one image (report.png)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tpr_jax.utils.files import remove_leftovers, write_whole


def write_report(
    workdir: str | os.PathLike,
    *,
    history: Sequence[Mapping],
    results: Mapping,
    retrievals: Sequence[Mapping],
) -> tuple[str, str]:
    """Writes report.html, which needs no other file, and report.png, and returns their paths.

    Args:
      workdir: the folder to write to.
      history: the rows of metrics.jsonl. Rows with "loss" make the loss curve, rows with "val" (or "test")
        the R@1 curve: {"step", "epoch", "loss", ...}, {"step", "epoch", "val": {"t2i": {...}, "i2t": {...}}}.
      results: the contents of results.json; missing entries are left out of the table.
      retrievals: one object per query, {"caption", "pid", "ranked": [{"path", "pid", "score"}, ...]}, best
        first. An image that cannot be read is drawn as an empty frame.

    Raises:
      UserError: `workdir` cannot be written or the disk is full; an older report is then left unchanged.
    """
    # Imported here: matplotlib takes a second, and only the end of a run needs it.
    from tpr_jax.report import html, png
    from tpr_jax.report.facts import gather_facts

    facts = gather_facts(history, results, retrievals)
    html_path, png_path = Path(workdir) / "report.html", Path(workdir) / "report.png"
    remove_leftovers(Path(workdir), [html_path.name, png_path.name])
    for path, content in ((html_path, html.render(facts).encode()), (png_path, png.render(facts))):
        write_whole(path, lambda temporary, content=content: Path(temporary).write_bytes(content))
    return str(html_path), str(png_path)
