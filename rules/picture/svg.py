"""A picture as SVG: no script, no font file, nothing loaded from anywhere."""

from __future__ import annotations

from rules.picture.layout import Box, laid_out
from rules.picture.model import Kind
from rules.picture.text import MONO, SANS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.picture.layout import Drawn, DrawnBand, DrawnCard, DrawnEnd, DrawnRow, Rail, Text, Way
    from rules.picture.model import Picture

COLOURS = {
    Kind.OUTBOUND: "#1d4ed8",
    Kind.INBOUND: "#a21caf",
    Kind.DNS: "#0f766e",
    Kind.BYPASS: "#4d7c0f",
    Kind.STOPPED: "#b91c1c",
    Kind.ON: "#475569",
    Kind.OTHERS: "#a16207",
}
"""Each has a contrast of more than 4.5 to 1 on white and below white text."""
PAGE = "#eef1f6"
STYLE = f"""\
.capture text {{ font-family: {SANS}; fill: #0f172a }}
.capture .mono {{ font-family: {MONO} }}
.capture .bold {{ font-weight: 700 }}
.capture .about, .capture .said, .capture .note, .capture .why {{ fill: #526075 }}
.capture .place, .capture .zero {{ fill: #6b778c }}
.capture .fold, .capture .otherwise {{ fill: #475569; font-style: italic }}
.capture .hook .chain, .capture .end, .capture .end-about, .capture .sign {{ fill: #ffffff }}
.capture .hook .about {{ fill: #cbd5e1 }}
.capture .way {{ fill: none; stroke-linejoin: round }}
"""
"""Of this picture alone, also where a page holds it among other things."""
CORNER = 7.0
ROUND = 9


def svg(pictures: Sequence[Picture]) -> str:
    """The pictures below each other, as one SVG document."""
    return "".join(f"{line}\n" for line in lines([laid_out(picture) for picture in pictures]))


def lines(pictures: Sequence[Drawn]) -> Iterator[str]:
    wide = figure(max((drawn.width for drawn in pictures), default=0))
    high = figure(sum(drawn.height for drawn in pictures))
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" '
        f'class="capture" role="img" aria-labelledby="title said">'
    )
    yield f'<title id="title">{escaped("; ".join(drawn.picture.title for drawn in pictures))}</title>'
    yield f'<desc id="said">{escaped("; ".join(drawn.picture.said for drawn in pictures))}</desc>'
    yield f"<style>\n{STYLE}</style>"
    yield "<defs>"
    for kind in Kind:
        yield (
            f'<marker id="{kind.name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" '
            f'markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0 0.5 L10 5 L0 9.5 Z" fill="{COLOURS[kind]}"/></marker>'
        )
    yield "</defs>"
    yield f'<rect width="{wide}" height="{high}" rx="14" fill="{PAGE}"/>'
    top = 0.0
    for drawn in pictures:
        yield f'<g transform="translate(0 {figure(top)})">' if top else "<g>"
        yield from picture_lines(drawn)
        yield "</g>"
        top += drawn.height
    yield "</svg>"


def picture_lines(drawn: Drawn) -> Iterator[str]:
    yield from map(text_line, drawn.texts)
    for band in drawn.bands:
        yield rect(band.box, 'rx="12" fill="#ffffff" stroke="#d5dce6"')
    for rail in drawn.rails:
        yield from rail_lines(rail)
    for band in drawn.bands:
        yield from band_lines(band)
    for sample in drawn.legend:
        colour = COLOURS[sample.kind]
        dashed = ' stroke-dasharray="5 3"' if sample.kind is Kind.OTHERS else ""
        end = figure(sample.x + 24)
        yield (
            f'<path d="M{figure(sample.x)} {figure(sample.y)} H{end}" stroke="{colour}" stroke-width="3"{dashed}/>'
            f'<circle cx="{end}" cy="{figure(sample.y)}" r="4" fill="{colour}"/>'
        )
        yield text_line(sample.text)


def rail_lines(rail: Rail) -> Iterator[str]:
    colour = "#1e293b"
    ways = [[(rail.x, rail.sign.bottom), (rail.x, y), (x, y)] for x, y in rail.stops]
    for way in ways:
        yield way_path(way, "#ffffff", 6)
    for way, (x, y) in zip(ways, rail.stops, strict=True):
        yield way_path(way, colour, 2.5)
        yield f'<path d="M{figure(x - 9)} {figure(y - 5)} l9 5 l-9 5 Z" fill="{colour}"/>'
    yield rect(rail.sign, f'rx="13" fill="{colour}"')
    yield f'<circle cx="{figure(rail.x)}" cy="{figure(rail.sign.y + 13)}" r="4" fill="#ffffff"/>'
    yield text_line(rail.text)


def band_lines(band: DrawnBand) -> Iterator[str]:
    yield from map(text_line, band.texts)
    by_goal = sorted(band.ways, key=lambda way: way.goal)
    for goal in dict.fromkeys(way.goal for way in by_goal):
        ways = [way for way in by_goal if way.goal == goal]
        for way in ways:
            yield way_path(way.points, "#ffffff", stroke(way) + 4)
        for way in sorted(ways, key=lambda way: way.packets or 0):
            yield way_path(
                way.points, COLOURS[way.kind], stroke(way), marker=way.kind.name, dashed=way.kind is Kind.OTHERS
            )
    for card in band.cards:
        yield from card_lines(card)
    for end in band.ends:
        yield from end_lines(end)


def stroke(way: Way) -> float:
    """How thick it is: more for what many packets took."""
    if way.packets is None:
        return 1.8
    return 1.2 if not way.packets else min(5.0, 1.8 + 0.6 * len(str(way.packets)))


def way_path(
    points: Sequence[tuple[float, float]], colour: str, thick: float, *, marker: str = "", dashed: bool = False
) -> str:
    ends = f' marker-end="url(#{marker})"' if marker else ""
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path class="way" d="{rounded(points)}" stroke="{colour}" stroke-width="{figure(thick)}"{dash}{ends}/>'


def rounded(points: Sequence[tuple[float, float]]) -> str:
    """A path through these points, turning at right angles with rounded corners."""
    parts = [f"M{figure(points[0][0])} {figure(points[0][1])}"]
    for before, at, behind in zip(points, points[1:], points[2:], strict=False):
        near, far = (min(CORNER, distance(before, at) / 2), min(CORNER, distance(at, behind) / 2))
        radius = min(near, far)
        one, two = towards(at, before, radius), towards(at, behind, radius)
        parts.append(
            f"L{figure(one[0])} {figure(one[1])} Q{figure(at[0])} {figure(at[1])} {figure(two[0])} {figure(two[1])}"
        )
    parts.append(f"L{figure(points[-1][0])} {figure(points[-1][1])}")
    return " ".join(parts)


def distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def towards(start: tuple[float, float], goal: tuple[float, float], far: float) -> tuple[float, float]:
    """The point so far from the start on the way to the goal, which is above, below or beside it."""
    whole = distance(start, goal) or 1
    return start[0] + (goal[0] - start[0]) * far / whole, start[1] + (goal[1] - start[1]) * far / whole


def card_lines(card: DrawnCard) -> Iterator[str]:
    box = card.box
    kind = "hook" if card.card.is_hook else "ours" if card.card.ours else "others"
    head, line = {
        "hook": ("#1e293b", "#1e293b"),
        "ours": ("#e8edf5", "#94a3b8"),
        "others": ("#fef3c7", COLOURS[Kind.OTHERS]),
    }[kind]
    dash = ' stroke-dasharray="6 4"' if kind == "others" or not card.card.is_entered else ""
    yield f'<g class="card {kind}">'
    yield rect(box, f'rx="{ROUND}" fill="#ffffff"')
    for row in card.rows:
        if not row.row.ours:
            yield rect(row.box, 'fill="#fffbeb"')
    yield header(box, head)
    for row in card.rows[1:]:
        if row.is_new:
            yield f'<path d="M{figure(box.x)} {figure(row.box.y)} h{figure(box.w)}" stroke="#e2e8f0"/>'
    yield rect(box, f'rx="{ROUND}" fill="none" stroke="{line}" stroke-width="1.2"{dash}')
    yield from map(text_line, card.texts)
    for row in card.rows:
        yield from row_lines(row)
    yield "</g>"


def header(box: Box, colour: str) -> str:
    x = figure(box.x)
    inner = figure(box.w - 2 * ROUND)
    return (
        f'<path d="M{x} {figure(box.y + 44)} V{figure(box.y + ROUND)} q0 -{ROUND} {ROUND} -{ROUND} h{inner} '
        f'q{ROUND} 0 {ROUND} {ROUND} V{figure(box.y + 44)} Z" fill="{colour}"/>'
    )


def row_lines(row: DrawnRow) -> Iterator[str]:
    colour = COLOURS[row.row.kind if row.row.ours or row.row.kind is Kind.STOPPED else Kind.OTHERS]
    if not row.row.ours:
        side = Box(row.box.x + 1, row.box.y + 2, 4, row.box.h - 4)
        yield rect(side, f'fill="{COLOURS[Kind.OTHERS]}"')
    for text in row.texts:
        yield text_line(text, colour if text.style == "does" else "")
    if row.row.goal:
        yield f'<circle cx="{figure(row.box.right)}" cy="{figure(row.port)}" r="3.5" fill="{colour}"/>'


def end_lines(end: DrawnEnd) -> Iterator[str]:
    yield rect(end.box, f'rx="{figure(end.box.h / 2)}" fill="{COLOURS[end.end.kind]}"')
    yield from map(text_line, end.texts)


def rect(box: Box, more: str) -> str:
    return f'<rect x="{figure(box.x)}" y="{figure(box.y)}" width="{figure(box.w)}" height="{figure(box.h)}" {more}/>'


def text_line(text: Text, colour: str = "") -> str:
    classes = " ".join(filter(None, (text.style, "mono" if text.mono else "", "bold" if text.bold else "")))
    anchor = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    fill = f' style="fill:{colour}"' if colour else ""
    return (
        f'<text x="{figure(text.x)}" y="{figure(text.y)}" font-size="{figure(text.size)}" class="{classes}"'
        f"{anchor}{fill}>{escaped(text.text)}</text>"
    )


def figure(value: float) -> str:
    """A number as short as it can be said."""
    return f"{value:.1f}".removesuffix(".0")


def escaped(text: str) -> str:
    """Text as XML has it. What XML cannot hold was replaced when the picture was made."""
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(char, entity)
    return text
