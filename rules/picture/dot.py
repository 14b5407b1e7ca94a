"""A picture in the DOT language of Graphviz: each card is a table whose rows the ways leave from."""

from __future__ import annotations

from rules.picture.layout import SIGNS
from rules.picture.model import Kind
from rules.picture.svg import COLOURS, escaped
from rules.picture.text import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.picture.model import Card, End, Key, Picture, Row

FONT = "Helvetica,Arial,sans-serif"
HEADS = {"hook": "#1e293b", "ours": "#e8edf5", "others": "#fef3c7"}


def dot(pictures: Sequence[Picture]) -> str:
    """The pictures as one graph."""
    return "".join(f"{line}\n" for line in lines(pictures))


def lines(pictures: Sequence[Picture]) -> Iterator[str]:
    words = (line for picture in pictures for line in (picture.title, picture.said, *picture.notes) if line)
    heading = "".join(f'{escaped(line)}<BR ALIGN="LEFT"/>' for line in words)
    yield "digraph capture {"
    yield f'  graph [rankdir=LR, fontname="{FONT}", fontsize=12, labelloc=t, labeljust=l, label=<{heading}>];'
    yield f'  node [shape=plain, fontname="{FONT}", fontsize=11];'
    yield f'  edge [fontname="{FONT}", fontsize=10];'
    for at, picture in enumerate(pictures):
        names = picture.names(f"p{at}")
        for number_of_band, band in enumerate(picture.bands):
            family = f"{picture.family} " if len(pictures) > 1 else ""
            yield f"  subgraph cluster_{at}_{number_of_band} {{"
            yield f'    label=<<B>{escaped(f"{family}{band.table}")}</B>>; color="#d5dce6"; style=rounded;'
            for card in band.cards:
                yield f"    {names[card.key]} [label=<{table(card)}>];"
            for end in band.ends:
                yield f"    {names[end.key]} [{end_attributes(end)}];"
            yield "  }"
        yield from entries(picture, at, names)
        for card in picture.cards:
            for place, row in enumerate(card.rows):
                if row.goal in names:
                    yield f"  {names[card.key]}:r{place}:e -> {names[row.goal]} [{way_attributes(row)}];"
    yield "}"


def entries(picture: Picture, at: int, names: dict[Key, str]) -> Iterator[str]:
    """The ways in, and from table to table."""
    for hook, stops in picture.stops():
        before = f"p{at}{hook.lower()}"
        sign = escaped(f"{hook}: {SIGNS[hook]}")
        look = 'shape=box, style="rounded,filled", fillcolor="#1e293b", fontcolor="#ffffff"'
        yield f"  {before} [label=<{sign}>, {look}];"
        for stop in stops:
            yield f'  {before} -> {names[stop.key]} [color="#1e293b", style=bold];'
            before = names[stop.key]


def table(card: Card) -> str:
    """The label of a card."""
    kind = "hook" if card.is_hook else "ours" if card.ours else "others"
    colour = "#ffffff" if kind == "hook" else "#0f172a"
    about = f'<BR/><FONT POINT-SIZE="9">{escaped(card.about)}</FONT>' if card.about else ""
    head = (
        f'<TR><TD COLSPAN="4" ALIGN="LEFT" BALIGN="LEFT" BGCOLOR="{HEADS[kind]}"><FONT COLOR="{colour}">'
        f"<B>{escaped(card.chain)}</B>{about}</FONT></TD></TR>"
    )
    rows = "".join(row_cells(place, row) for place, row in enumerate(card.rows))
    return f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="5" COLOR="#94a3b8">{head}{rows}</TABLE>'


def row_cells(place: int, row: Row) -> str:
    look = "" if row.ours else f' BGCOLOR="#fffbeb" COLOR="{COLOURS[Kind.OTHERS]}"'
    why = f'<BR/><FONT POINT-SIZE="9" COLOR="#526075">{escaped(row.why)}</FONT>' if row.why else ""
    count = "" if row.packets is None else number(row.packets)
    does = f'<FONT COLOR="{COLOURS[row.kind]}"><B>{escaped(row.does)}</B></FONT>' if row.does else ""
    return (
        f'<TR><TD SIDES="LB"{look}>{row.place}</TD>'
        f'<TD SIDES="B" ALIGN="LEFT" BALIGN="LEFT"{look}>{escaped(row.asks)}{why}</TD>'
        f'<TD SIDES="B" ALIGN="RIGHT"{look}>{count}</TD>'
        f'<TD SIDES="RB" ALIGN="RIGHT" PORT="r{place}"{look}>{does}</TD></TR>'
    )


def end_attributes(end: End) -> str:
    count = f" · {number(end.packets)}" if end.packets is not None else ""
    label = f'<B>{escaped(end.title)}</B><BR/><FONT POINT-SIZE="9">{escaped(end.about + count)}</FONT>'
    look = f'shape=box, style="rounded,filled", fillcolor="{COLOURS[end.kind]}", color="{COLOURS[end.kind]}"'
    return f'label=<{label}>, {look}, fontcolor="#ffffff"'


def way_attributes(row: Row) -> str:
    colour = COLOURS[row.kind if row.ours else Kind.OTHERS]
    thick = 1.4 if row.packets is None else 1.0 if not row.packets else min(4.0, 1.4 + 0.5 * len(str(row.packets)))
    return f'color="{colour}", penwidth={thick:.1f}'
