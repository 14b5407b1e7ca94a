"""A picture as a Mermaid flowchart, for pages that draw those: chains as boxes of lines, in the plainest grammar."""

from __future__ import annotations

from rules.picture.layout import SIGNS
from rules.picture.model import Kind
from rules.picture.svg import COLOURS
from rules.picture.text import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rules.picture.model import Card, End, Key, Picture, Row

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:/()_-→·…–")
BREAK = "<br/>"
CLASSES = f"""\
  classDef hook fill:#1e293b,stroke:#1e293b,color:#ffffff,text-align:left
  classDef ours fill:#ffffff,stroke:#94a3b8,color:#0f172a,text-align:left
  classDef others fill:#fffbeb,stroke:{COLOURS[Kind.OTHERS]},color:#0f172a,stroke-dasharray:6 4,text-align:left"""


def mermaid(pictures: Sequence[Picture]) -> str:
    """The pictures as one flowchart."""
    return "".join(f"{line}\n" for line in lines(pictures))


def lines(pictures: Sequence[Picture]) -> Iterator[str]:
    yield "---"
    yield f"title: {title(pictures)}"
    yield "---"
    yield "flowchart LR"
    ways = _Ways()
    for at, picture in enumerate(pictures):
        names = picture.names(f"p{at}")
        for band in picture.bands:
            family = f"{picture.family} " if len(pictures) > 1 else ""
            yield f"  subgraph p{at}{safe_name(band.table)} [{quoted(f'{family}{band.table}')}]"
            for card in band.cards:
                yield f"    {names[card.key]}[{label(card)}]:::{style(card)}"
            for end in band.ends:
                yield f"    {names[end.key]}([{end_label(end)}]):::{end.kind.name}"
            yield "  end"
        yield from entries(picture, at, names, ways)
        for card in picture.cards:
            yield from ways_from(card, names, ways)
        for number_of_note, note in enumerate((picture.said, *picture.notes)):
            if note:
                yield f"  p{at}note{number_of_note}[{quoted(note)}]:::note"
    yield CLASSES
    yield "  classDef note fill:none,stroke:none,color:#526075"
    for kind in Kind:
        yield f"  classDef {kind.name} fill:{COLOURS[kind]},stroke:{COLOURS[kind]},color:#ffffff"
    yield from ways.styles()


class _Ways:
    """Counts the ways, because Mermaid colours them by their number."""

    def __init__(self) -> None:
        self.count = 0
        self.of_kind: dict[Kind, list[int]] = {}

    def one(self, kind: Kind | None) -> None:
        if kind:
            self.of_kind.setdefault(kind, []).append(self.count)
        self.count += 1

    def styles(self) -> Iterator[str]:
        for kind, numbers in self.of_kind.items():
            yield f"  linkStyle {','.join(map(str, numbers))} stroke:{COLOURS[kind]},stroke-width:2px"


def entries(picture: Picture, at: int, names: dict[Key, str], ways: _Ways) -> Iterator[str]:
    """The ways in, and from table to table."""
    for hook, stops in picture.stops():
        before = ""
        for stop in stops:
            name = names[stop.key]
            if before:
                yield f"  {before} -.->|then| {name}"
            else:
                yield f"  p{at}{hook.lower()}([{quoted(SIGNS.get(hook, hook))}]):::hook --> {name}"
            ways.one(None)
            before = name


def ways_from(card: Card, names: dict[Key, str], ways: _Ways) -> Iterator[str]:
    """One way to each goal, with the rules that lead there."""
    by_goal: dict[Key, list[Row]] = {}
    for row in card.rows:
        if row.goal in names:
            by_goal.setdefault(row.goal, []).append(row)
    for goal, rows in by_goal.items():
        places = ", ".join(row.place or "otherwise" for row in rows)
        ways.one(rows[0].kind if rows[0].ours else Kind.OTHERS)
        yield f"  {names[card.key]} -->|{quoted(places)}| {names[goal]}"


def label(card: Card) -> str:
    """The chain's name and its rows, a line each."""
    rows = [f"{row.place}  {row.asks}: {row.does}{counted(row)}" if row.does else row.asks for row in card.rows]
    return f'"{BREAK.join(map(escaped, (card.chain, *(row.strip() for row in rows))))}"'


def end_label(end: End) -> str:
    count = f" · {number(end.packets)}" if end.packets is not None else ""
    return f'"{escaped(end.title)}{BREAK}{escaped(end.about + count)}"'


def title(pictures: Sequence[Picture]) -> str:
    """The titles as YAML has them: in double quotes."""
    text = ", ".join(picture.title for picture in pictures)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def counted(row: Row) -> str:
    return "" if row.packets is None else f" ({number(row.packets)})"


def style(card: Card) -> str:
    return "hook" if card.is_hook else "ours" if card.ours else "others"


def quoted(text: str) -> str:
    return f'"{escaped(text)}"'


def escaped(text: str) -> str:
    """Everything that could mean something to Mermaid, to Markdown or to HTML by its number."""
    return "".join(char if char in PLAIN else f"#{ord(char)};" for char in text)


def safe_name(name: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
