"""Formats results for the terminal."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from tpr_jax.utils.escape import escape_unprintable
from tpr_jax.utils.plural import counted

SKIPPED_FILE = "skipped.jsonl in the index"


def format_results(result: Mapping) -> str:
    """Formats the result of `search`: one line per photo, with the photos of its group indented below it.

    Names and cells come from files of others, whose line breaks and escape codes no terminal should get.
    """
    lines = []
    for photo in result["results"]:
        lines.append(f"{photo['rank']:>4}  {_format_photo(photo)}")
        lines += [f"      {photo['seen']}:"] if photo.get("seen") else []
        lines += [f"      {_format_photo(other)}" for other in photo.get("group", [])]
    if not result["results"]:
        lines.append("no photo matches")
    searched = counted(result["count"], "photo")
    if result["matching"] != result["count"]:
        searched = f"{result['matching']:,} of {searched}"
    lines.append(
        f"{searched} searched ({result['engine']}): {result['encode_ms']:.0f} ms to encode the query, "
        f"{result['search_ms']:.0f} ms to search"
    )
    if result.get("chance") is not None:
        lines.append("percent: pairs of a made-up description and a photo that score as high")
    if "question" in result:
        lines.append(_format_question(result["question"]))
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(_printable(line) for line in lines)


def _format_question(question: Mapping | None) -> str:
    if question is None:
        return "question: nothing more to ask"
    phrase = question["phrase"]
    return f'question: {question["text"]} Add --yes, --no or --unknown "{phrase}"'


def format_build(result: Mapping, max_listed: int = 10) -> str:
    """Formats the result of `build`, with the first of the photos that were skipped and left out."""
    lines = format_skipped(result["skipped"], max_listed, SKIPPED_FILE)
    lines += format_left_out(result.get("left_out", {}), max_listed)
    resumed = result.get("resumed", 0)
    before = f"{resumed:,} encoded before the run was interrupted, " if resumed else ""
    lines.append(
        f"{counted(result['count'], 'photo')} indexed: {result['encoded']:,} encoded, {before}"
        f"{result['kept']:,} unchanged, {result['gone']:,} gone, {len(result['skipped']):,} skipped"
    )
    rate = result["encoded"] / max(result["encoding_seconds"], 1e-9)
    lines.append(f"{result['seconds']:.1f} s" + (f", {rate:.0f} encoded per second" if rate else ""))
    return "\n".join(lines)


def format_left_out(counts: Mapping[str, int], max_listed: int) -> list[str]:
    """Formats how many folders and files were left out, by name, most frequent first: one line, or none."""
    counts = +Counter(counts)  # without patterns that matched nothing
    if not counts:
        return []
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    names = ", ".join(f"{_printable(name)} ({count:,})" for name, count in ordered[:max_listed])
    more = f", and {len(ordered) - max_listed:,} other names" if len(ordered) > max_listed else ""
    return [
        f"left out: {counted(sum(counts.values()), 'file or folder', 'folders and files')}: {names}{more}"
    ]


def format_skipped(skipped: Sequence[tuple[str, str]], max_listed: int, where: str = "") -> list[str]:
    """Formats the photos that were skipped, and why, one per line.

    Args:
      skipped: (file, reason) of each.
      max_listed: the largest number of lines, before one for the rest.
      where: the file that lists all of them, if there is one.
    """
    lines = [_printable(f"skipped: {name}: {reason}") for name, reason in skipped[:max_listed]]
    if len(skipped) > max_listed:
        endings = Counter(
            os.path.splitext(name)[1].lower()
            for name, reason in skipped[max_listed:]
            if reason.startswith("not an image that can be read (")
        )
        named = ", ".join(f"{ending} ({count:,})" for ending, count in endings.most_common(max_listed))
        among = f", among them {named}" if named else ""
        full = f": {where} lists all of them" if where else ""
        lines.append(f"... and {len(skipped) - max_listed:,} more{among}{full}")
    return lines


def _format_photo(photo: Mapping) -> str:
    box = f" {photo['box']}" if photo["box"] else ""
    columns = {name: value for name, value in photo["columns"].items() if value is not None}
    place = _format_place(columns) if {"camera", "frame", "track"} <= set(photo["columns"]) else ""
    listed = "  ".join(f"{name}={value}" for name, value in columns.items())
    chance = "" if photo.get("chance") is None else f"{100 * photo['chance']:4.1f} %  "
    return f"{photo['score']:.4f}  {chance}{place}{photo['path']}{box}" + (f"  {listed}" if listed else "")


def _format_place(columns: dict) -> str:
    """Formats where and when a person of footage was seen, and removes these columns."""
    camera, time = columns.pop("camera", "-"), columns.pop("time", "-")
    if isinstance(time, str):
        time = time.replace("T", " ").removesuffix("000")
    return f"{camera}  {f'{time:.1f} s' if isinstance(time, float) else time}  "


def _printable(line: str) -> str:
    return escape_unprintable(line, keep_blanks=True)
