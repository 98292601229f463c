"""Answers in words, for a terminal."""

from collections.abc import Mapping, Sequence


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
    lines = skipped(result["skipped"], shown) + left_out(result.get("left_out", {}), shown)
    lines.append(
        f"{result['count']:,} photos indexed: {result['encoded']:,} encoded, "
        f"{result['kept']:,} as they were, {result['gone']:,} gone, {len(result['skipped']):,} skipped"
    )
    rate = result["encoded"] / max(result["encoding_seconds"], 1e-9)
    lines.append(f"{result['seconds']:.1f} s" + (f", {rate:.0f} encoded a second" if rate else ""))
    return "\n".join(lines)


def left_out(found: Mapping[str, int], shown: int) -> list[str]:
    """A line with how many folders and files were left out, and their names, most of them first."""
    if not found:
        return []
    names = [
        f"{name} ({count:,})" for name, count in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    more = f", and {len(names) - shown:,} other names" if len(names) > shown else ""
    return [f"left out: {sum(found.values()):,} folders and files: {', '.join(names[:shown])}{more}"]


def skipped(found: Sequence[tuple[str, str]], shown: int) -> list[str]:
    lines = [f"skipped: {name}: {why}" for name, why in found[:shown]]
    if len(found) > shown:
        lines.append(f"... and {len(found) - shown:,} more: skipped.jsonl in the index lists them all")
    return lines


def _photo(found: dict) -> str:
    box = f" {found['box']}" if found["box"] else ""
    columns = "  ".join(f"{name}={value}" for name, value in found["columns"].items() if value is not None)
    return f"{found['score']:.4f}  {found['path']}{box}" + (f"  {columns}" if columns else "")
