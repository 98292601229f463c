"""Parses the documentation pages: code blocks, command lines, links and headings.

A comment `<!-- not run: REASON -->` before a block excludes it from the tests, which report the reason.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [
    *("README.md", "CONTRIBUTING.md", "configs/README.md", "launch/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]
# Placeholder in a usage line -> an example for it.
EXAMPLES = {
    "configs/NAME.py[:DATASET]": "configs/dm_adapter.py:cuhk_pedes",
    "[--config.KEY=VALUE ...]": "--config.seed=1",
    "--config ...": "--config configs/dm_adapter.py",
    "...": "",
}


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: str
    line: int  # number of the first line of code, from 1
    language: str  # empty for an indented block
    code: str
    skip_reason: str  # why the block is not run; empty if it is run


def read(page: str) -> str:
    """Returns the text of a page."""
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    """Returns the fenced and indented blocks in order. An indented block follows an empty line."""
    found, lines, i = [], read(page).splitlines(), 0
    while i < len(lines):
        fence = re.match(r"```(\w*)", lines[i])
        start = i + bool(fence)
        if fence:
            i = lines.index("```", start)
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
        if fence or i > start:
            before = next((line for line in reversed(lines[: start - bool(fence)]) if line.strip()), "")
            reason = re.fullmatch(r"<!-- not run: (.+) -->", before)
            code = "\n".join(line if fence else line[4:] for line in lines[start:i]).rstrip()
            found.append(Block(page, start + 1, fence[1] if fence else "", code, reason[1] if reason else ""))
        i += bool(fence) or i == start
    return found


def calls(block: Block) -> list[tuple[int, list[str]]]:
    """Returns (line, words) of every command line, with placeholders replaced and without comments."""
    found, line = [], block.line
    for text in re.split(r"(?<!\\)\n", block.code):
        joined = text.replace("\\\n", " ")
        for placeholder, example in EXAMPLES.items():
            joined = joined.replace(placeholder, example)
        joined = re.sub(r"\[(-[^\]]*)\]", r"\1", joined)  # optional arguments are included
        try:
            words = shlex.split(joined, comments=True)
        except ValueError:  # an apostrophe in printed output
            words = joined.split()
        found.append((line, words))
        line += text.count("\n") + 1
    return [(number, words) for number, words in found if words]


def prose(page: str) -> str:
    """Returns the page without its code blocks."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<=\n\n)(?: {4}.*\n|\n)+", "\n", text)


def links(page: str) -> list[str]:
    """Returns the targets of links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: str) -> set[str]:
    """Returns the anchors of the headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
