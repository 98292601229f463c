"""Answers in words, for a terminal."""

from collections.abc import Sequence


def answer(result: dict) -> str:
    """A line a photo: rank, score, path, box and columns; those of a group stand below it, without rank."""
    lines = []
    for found in result["results"]:
        lines.append(f"{found['rank']:>4}  {_photo(found)}")
        lines += [f"      {_photo(other)}" for other in found.get("group", [])]
    searched = (
        f"{result['matching']:,} of {result['count']:,}" if result["matching"] != result["count"] else ""
    )
    searched = searched or f"{result['count']:,}"
    lines += [] if result["results"] else ["no photo is left to search in"]
    lines.append(
        f"{searched} photos searched ({result['engine']}): {result['encode_ms']:.0f} ms to read the query, "
        f"{result['search_ms']:.0f} ms to search"
    )
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def built(result: dict, shown: int = 10) -> str:
    """What `build` did, with the first photos that were skipped."""
    lines = skipped(result["skipped"], shown)
    lines.append(
        f"{result['count']:,} photos indexed: {result['encoded']:,} encoded, "
        f"{result['kept']:,} as they were, {result['gone']:,} gone, {len(result['skipped']):,} skipped"
    )
    rate = result["encoded"] / max(result["encoding_seconds"], 1e-9)
    lines.append(f"{result['seconds']:.1f} s" + (f", {rate:.0f} encoded a second" if rate else ""))
    return "\n".join(lines)


def skipped(found: Sequence[tuple[str, str]], shown: int) -> list[str]:
    lines = [f"skipped: {name}: {why}" for name, why in found[:shown]]
    if len(found) > shown:
        lines.append(f"... and {len(found) - shown:,} more: skipped.jsonl in the index lists them all")
    return lines


def _photo(found: dict) -> str:
    box = f" {found['box']}" if found["box"] else ""
    columns = "  ".join(f"{name}={value}" for name, value in found["columns"].items() if value is not None)
    return f"{found['score']:.4f}  {found['path']}{box}" + (f"  {columns}" if columns else "")
