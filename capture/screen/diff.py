"""What a run would change, as a unified diff."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.style import style

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.inspect.hunks import ChainDiff, Diff, Line

COLOURS = {"-": "red", "+": "green", "@": "cyan", "#": "yellow"}
HEADINGS = ("---", "+++")


def coloured(line: str) -> str:
    if line.startswith(HEADINGS):
        return style(line, bold=True)
    return style(line, fg=COLOURS[line[0]]) if line[0] in COLOURS else line


def text(found: Diff, *, why: bool = False) -> Iterator[str]:
    """The lines of the diff. What no run changes stands in comments at the end."""
    for chain in found.chains:
        yield from of_chain(chain, why=why)
    if found.ip:
        yield from heading("ip")
        yield from (shown(line, why=why) for line in found.ip)
    yield from (f"# {beyond}" for beyond in found.beyond_repair)


def heading(of: str) -> Iterator[str]:
    yield f"--- live     {of}"
    yield f"+++ planned  {of}"


def of_chain(diff: ChainDiff, *, why: bool) -> Iterator[str]:
    yield from heading(f"{diff.backend} {diff.family.value} {diff.table} {diff.chain}")
    if diff.change != "changed":
        yield f"{'+' if diff.change == 'made' else '-'}:{diff.chain} - [0:0]"
    for hunk in diff.hunks:
        yield f"@@ -{span(hunk.live_start, hunk.live_count)} +{span(hunk.planned_start, hunk.planned_count)} @@"
        yield from (shown(line, why=why) for line in hunk.lines)


def span(start: int, count: int) -> str:
    return str(start) if count == 1 else f"{start},{count}"


def shown(line: Line, *, why: bool) -> str:
    return f"{line.op}{line.text}{f'  # {line.why}' if why and line.why and line.op != ' ' else ''}"
