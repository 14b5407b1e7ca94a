"""Where everything in a picture goes: columns from hooks on the left to ends on the right, a band for each table.

Cards stand in the column after the last card that leads to them. A way from a row runs to a track between the columns,
along it up or down, and on to the right; all ways to one goal share a track, and pass the columns in between through a
gap that is kept for them. Nothing is drawn over anything, whatever the ruleset: `tests/property` draws them all.
"""

from __future__ import annotations

from rules.netfilter.values import OUTPUT, PREROUTING
from rules.picture.model import Kind
from rules.picture.text import cut, number, width, wrapped
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from rules.picture.model import Band, Card, End, Key, Picture, Row

    Point: TypeAlias = tuple[float, float]

MARGIN = 14
GAP = 22
"""Between cards below each other."""
RAIL_STEP = 18
TRACK_STEP = 9
GUTTER_EDGE = 13
"""Between a column and the next track."""
PAD = 10
HEADER = 46
HEADER_PORT = 23
ROW_PAD = 7
ASK_SIZE, ASK_LEADING = 13.0, 18
WHY_SIZE, WHY_LEADING = 11.0, 15
DOES_SIZE = 12.0
PLACE_SIZE = 11.0
COUNT_SIZE = 12.0
CHAIN_SIZE = 14.0
ABOUT_SIZE = 11.0
TEXT_ROOM = 245
"""For what a row asks, beside or above what it does: so narrow that a page of 830 pixels shows it legibly."""
NARROW_ROOM = 125
"""In columns whose cards have few rows, and so room below them."""
FEW_ROWS = 3
DOES_ROOM = 240
END_WIDTH, END_HEIGHT = 150, 66
END_TITLE = 15.0
BAND_HEAD = 44
BAND_FOOT = 20
TITLE_SIZE = 22.0
SAID_SIZE, SAID_LEADING = 12.5, 18
NOTE_SIZE, NOTE_LEADING = 12.0, 18
GAP_FOR_WAYS = 12
"""The height of the gap that is kept in a column for a way that passes it."""
CLEARANCE = 5
"""The least distance of ways to different goals that are side by side."""
LEAST_WIDTH = 700


class Box(Value):
    """A rectangle."""

    x: float
    y: float
    w: float
    h: float

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def bottom(self) -> float:
        return self.y + self.h

    def overlaps(self, other: Box) -> bool:
        return self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom

    def holds(self, other: Box) -> bool:
        return self.x <= other.x and other.right <= self.right and self.y <= other.y and other.bottom <= self.bottom


class Text(Value):
    """A line of text; `style` is the class that the writer gives it."""

    x: float
    y: float
    """Of its base line."""
    text: str
    size: float
    style: str
    anchor: str = "start"
    bold: bool = False
    mono: bool = False

    @property
    def box(self) -> Box:
        """The room it takes."""
        wide = width(self.text, self.size, bold=self.bold, mono=self.mono)
        left = {"start": self.x, "middle": self.x - wide / 2, "end": self.x - wide}[self.anchor]
        return Box(left, self.y - 0.8 * self.size, wide, self.size)


class DrawnRow(Value):
    """A row with its texts."""

    box: Box
    row: Row
    texts: tuple[Text, ...]
    is_new: bool
    """Whether it is set off from the row above, which is about something else."""
    port: float
    """Where on the right edge of its card a way that leaves it begins: beside what it does."""


class DrawnCard(Value):
    """A chain."""

    box: Box
    card: Card
    texts: tuple[Text, ...]
    rows: tuple[DrawnRow, ...]


class DrawnEnd(Value):
    """An end."""

    box: Box
    end: End
    texts: tuple[Text, ...]


class Way(Value):
    """A line with rounded corners through these points, with an arrow at its end."""

    points: tuple[Point, ...]
    kind: Kind
    packets: int | None
    source: Key
    goal: Key


class DrawnBand(Value):
    """A table."""

    box: Box
    band: Band
    texts: tuple[Text, ...]
    cards: tuple[DrawnCard, ...]
    ends: tuple[DrawnEnd, ...]
    ways: tuple[Way, ...]


class Rail(Value):
    """One of the ways into the picture: from its sign at the top to the hooks, table by table."""

    hook: str
    sign: Box
    text: Text
    x: float
    bottom: float
    stops: tuple[Point, ...]
    """Where it turns off, and the hook's edge: the y of both, and the x of the edge."""


class Sample(Value):
    """An entry of the legend."""

    x: float
    y: float
    kind: Kind
    text: Text


class Drawn(Value):
    """A picture with its places."""

    width: float
    height: float
    picture: Picture
    texts: tuple[Text, ...]
    rails: tuple[Rail, ...]
    bands: tuple[DrawnBand, ...]
    legend: tuple[Sample, ...]


SIGNS = {
    PREROUTING: "a packet arrives",
    "INPUT": "then it is delivered in here",
    "FORWARD": "or it is passed on",
    OUTPUT: "a process in here sends",
    "POSTROUTING": "what was sent or passed on leaves",
}


# --- sizes ------------------------------------------------------------------------------------------------


class _Sized:
    """A card with the size of its parts, before it has a place."""

    def __init__(self, card: Card, room: float, *, counted: bool) -> None:
        self.card = card
        self.place_width = max((width(row.place, PLACE_SIZE, mono=True) for row in card.rows), default=0.0)
        self.does = [cut(row.does, DOES_ROOM, DOES_SIZE, bold=True) for row in card.rows]
        self.does_width = max((width(text, DOES_SIZE, bold=True) for text in self.does), default=0.0)
        self.counts = [number(row.packets) if counted and row.packets is not None else "" for row in card.rows]
        self.count_width = max((width(text, COUNT_SIZE, mono=True) for text in self.counts), default=0.0)
        count_room = self.count_width + 16 if self.count_width else 0
        acts = [
            count_room + (self.does_width if count_room else width(text, DOES_SIZE, bold=True)) for text in self.does
        ]
        # What a row does stands beside what it asks, or on a line of its own where both would be too wide.
        is_beside = [width(row.asks, ASK_SIZE) + 18 + wide <= room for row, wide in zip(card.rows, acts, strict=True)]
        self.asks = [wrapped(row.asks, room, ASK_SIZE, lines=3) for row in card.rows]
        self.acts_at = [
            0 if beside else len(asks) if does or counted else 0
            for beside, asks, does, counted in zip(is_beside, self.asks, self.does, self.counts, strict=True)
        ]
        """The line of each row on which it is said what it does."""
        self.whys: list[list[str]] = []
        before = ""
        for row in card.rows:
            self.whys.append(wrapped(row.why, room, WHY_SIZE, lines=3) if row.why and row.why != before else [])
            before = row.why
        self.is_new = [not at or not row.why or bool(self.whys[at]) for at, row in enumerate(card.rows)]
        found = [
            width(text, ASK_SIZE) + (0 if at else 18 + wide)
            for (texts, at), wide in zip(self.asked(), acts, strict=True)
            for text in texts
        ]
        found += [width(text, WHY_SIZE) for texts in self.whys for text in texts]
        title = width(card.chain, CHAIN_SIZE, bold=True, mono=True)
        about = width(card.about, ABOUT_SIZE)
        inner = self.place_width + 10 + max([0.0, *acts, *found])
        self.width = max(inner, title, about) + 2 * PAD
        self.heights = [
            ROW_PAD * (2 if new else 1.5) + ASK_LEADING * max(len(asks), at + 1) + WHY_LEADING * len(whys)
            for (asks, at), whys, new in zip(self.asked(), self.whys, self.is_new, strict=True)
        ]
        self.height = HEADER + sum(self.heights) + 4

    def asked(self) -> Iterator[tuple[list[str], int]]:
        """What each row asks, and the line on which it says what it does."""
        return zip(self.asks, self.acts_at, strict=True)

    def port(self, at: int) -> float:
        """How far below the card's top the way from this row begins."""
        lead = 0 if self.is_new[at] else -ROW_PAD / 2
        return HEADER + sum(self.heights[:at]) + ROW_PAD + (self.acts_at[at] + 0.5) * ASK_LEADING + lead

    def drawn(self, x: float, y: float, wide: float) -> DrawnCard:
        card = self.card
        left, right = x + PAD, x + wide - PAD
        texts = [
            Text(left, y + 20, card.chain, CHAIN_SIZE, "chain", bold=True, mono=True),
            Text(left, y + 36, card.about, ABOUT_SIZE, "about"),
        ]
        rows = []
        top = y + HEADER
        for at, row in enumerate(card.rows):
            lead = ROW_PAD if self.is_new[at] else ROW_PAD / 2
            base = top + lead + 13
            found = [Text(left + self.place_width, base, row.place, PLACE_SIZE, "place", "end", mono=True)]
            begin = left + self.place_width + 10
            style = "ask" if row.rules == 1 else "fold" if row.rules else "otherwise"
            for line, text in enumerate(self.asks[at]):
                found.append(Text(begin, base + line * ASK_LEADING, text, ASK_SIZE, style))
            acts = base + self.acts_at[at] * ASK_LEADING
            below = base + max(len(self.asks[at]), self.acts_at[at] + 1) * ASK_LEADING - 2
            for line, text in enumerate(self.whys[at]):
                found.append(Text(begin, below + line * WHY_LEADING, text, WHY_SIZE, "why"))
            if self.counts[at]:
                style = "count" if row.packets else "zero"
                end = right - self.does_width - 16
                found.append(Text(end, acts, self.counts[at], COUNT_SIZE, style, "end", mono=True))
            found.append(Text(right, acts, self.does[at], DOES_SIZE, "does", "end", bold=True))
            box = Box(x, top, wide, self.heights[at])
            drawn = tuple(text for text in found if text.text)
            rows.append(DrawnRow(box, row, drawn, self.is_new[at], y + self.port(at)))
            top += self.heights[at]
        return DrawnCard(Box(x, y, wide, self.height), card, tuple(text for text in texts if text.text), tuple(rows))


# --- one table --------------------------------------------------------------------------------------------


class _Column(Value):
    """What stands in a column and has a height: a card, an end, or the gap for a way."""

    goal: Key
    is_gap: bool
    height: float
    port: float
    """How far below its top ways enter it."""


def a_gap(goal: Key) -> _Column:
    """What is kept free for a way that passes a column."""
    return _Column(goal, True, GAP_FOR_WAYS, GAP_FOR_WAYS / 2)


def an_end(end: End) -> _Column:
    return _Column(end.key, False, END_HEIGHT, END_HEIGHT / 2)


class _Table:
    """The cards of one table in columns, with their heights but no widths."""

    def __init__(self, band: Band) -> None:
        self.band = band
        self.sized: dict[Key, _Sized] = {}
        self.goals = frozenset(band.keys)
        self.depths = self.depths_of_cards()
        self.tops: dict[tuple[Key, int], float] = {}
        """The top of each card and end, and of each gap for a way to it, by column."""
        self.last = max(self.depths.values(), default=0) + (1 if band.ends else 0)

    def ways_from(self, card: Card) -> Iterator[tuple[int, Row, Key]]:
        for at, row in enumerate(card.rows):
            if row.goal in self.goals and self.leads_on(card.key, row.goal):
                yield at, row, row.goal

    def leads_on(self, card: Key, goal: Key) -> bool:
        """Whether the goal stands further to the right, as it does wherever no chain leads back to itself."""
        return goal not in self.depths or self.depths[goal] > self.depths[card]

    def depths_of_cards(self) -> dict[Key, int]:
        """The longest way to each card; hooks are 0, what nothing leads to is 1."""
        depths = {card.key: 0 if card.is_hook else 1 for card in self.band.cards}
        # A chain cannot lead back to itself in the kernel; as many rounds as there are cards end it if one did.
        for _ in self.band.cards:
            changed = False
            for card in self.band.cards:
                for row in card.rows:
                    if row.goal in depths and row.goal != card.key and depths[row.goal] <= depths[card.key]:
                        depths[row.goal] = depths[card.key] + 1
                        changed = True
            if not changed:
                break
        return depths

    def place(self, rooms: Sequence[float], *, counted: bool) -> None:
        """Give everything its top. `rooms` says how wide text may be in each column; the ends stand in the last."""
        self.last = last = len(rooms) - 1
        self.sized = {card.key: _Sized(card, rooms[self.depths[card.key]], counted=counted) for card in self.band.cards}
        self.place_hooks()
        for column in range(2, last + 1):
            self.place_column(column)

    def place_hooks(self) -> None:
        """Each hook with the chains that follow it beside it, one below the other."""
        cursor = 0.0
        nearby = {
            card.key: _Column(card.key, False, self.sized[card.key].height, HEADER_PORT)
            for card in self.band.cards
            if self.depths[card.key] == 1
        }
        waiting = nearby | {goal: a_gap(goal) for goal in self.passing(1)}
        if self.last == 1:
            waiting |= {end.key: an_end(end) for end in self.band.ends}
        for hook in [card for card in self.band.cards if card.is_hook]:
            self.tops[hook.key, 0] = cursor
            below = cursor
            for at, _, goal in self.ways_from(hook):
                if goal in waiting:
                    item = waiting.pop(goal)
                    top = self.clear_of_others(item, 1, max(below, cursor + self.sized[hook.key].port(at) - item.port))
                    self.tops[goal, 1] = top
                    below = top + item.height + GAP
            cursor = max(below, cursor + self.sized[hook.key].height + GAP)
        for item in waiting.values():
            self.tops[item.goal, 1] = cursor
            cursor += item.height + GAP

    def passing(self, column: int) -> list[Key]:
        """The goals further right to which a way passes this column."""
        found: dict[Key, None] = {}
        for card in self.band.cards:
            for _, _, goal in self.ways_from(card):
                if self.depths[card.key] < column < self.column_of(goal):
                    found[goal] = None
        return list(found)

    def column_of(self, goal: Key) -> int:
        return self.depths.get(goal, self.last)

    def sources(self, goal: Key, column: int) -> list[tuple[float, Row | None, Key]]:
        """Where ways to this goal come from in that column: rows of its cards, or its gap."""
        found: list[tuple[float, Row | None, Key]] = []
        for card in self.band.cards:
            if self.depths[card.key] == column:
                top = self.tops.get((card.key, column))
                if top is None:
                    continue
                found += [
                    (top + self.sized[card.key].port(at), row, card.key)
                    for at, row, aim in self.ways_from(card)
                    if aim == goal
                ]
        if (goal, column) in self.tops and self.column_of(goal) != column:
            found.append((self.tops[goal, column] + GAP_FOR_WAYS / 2, None, goal))
        return found

    def place_column(self, column: int) -> None:
        """What has a place that it would like gets it, or the next one below."""
        items = [
            _Column(card.key, False, self.sized[card.key].height, HEADER_PORT)
            for card in self.band.cards
            if self.depths[card.key] == column
        ]
        items += map(a_gap, self.passing(column))
        if column == self.last:
            items += map(an_end, self.band.ends)
        wanted = {item.goal: self.wish(item, column) - item.port for item in items}
        cursor = 0.0
        for item in sorted(items, key=lambda item: wanted[item.goal]):
            top = self.clear_of_others(item, column, max(cursor, wanted[item.goal]))
            self.tops[item.goal, column] = top
            cursor = top + item.height + GAP

    def clear_of_others(self, item: _Column, column: int, top: float) -> float:
        """The top, or one further down at which no way to another goal begins at the height where ways to this end."""
        goals = {goal for card in self.band.cards for _, _, goal in self.ways_from(card)} - {item.goal}
        taken = [y for goal in goals for y, _, _ in self.sources(goal, column - 1)]
        while any(abs(top + item.port - y) < CLEARANCE for y in taken):
            top += CLEARANCE
        return top

    def wish(self, item: _Column, column: int) -> float:
        """Beside what leads to it: the middle of it for ends, the last of it for chains."""
        lefts = [y for y, _, _ in self.sources(item.goal, column - 1)]
        if not lefts:
            return 0.0
        is_end = item.goal not in self.depths
        return sum(lefts) / len(lefts) if is_end else max(lefts)

    @property
    def height(self) -> float:
        bottoms = [0.0]
        for (key, column), top in self.tops.items():
            if self.column_of(key) != column:
                bottoms.append(top + GAP_FOR_WAYS)
            else:
                bottoms.append(top + (self.sized[key].height if key in self.sized else END_HEIGHT))
        return max(bottoms)

    def wires(self, column: int) -> list[_Wire]:
        """The ways between this column and the next, one wire for each goal, in the order of their tracks."""
        found = []
        for goal in dict.fromkeys(key for key, at in self.tops if at == column + 1):
            lefts = self.sources(goal, column)
            if lefts:
                is_gap = self.column_of(goal) != column + 1
                port = GAP_FOR_WAYS / 2 if is_gap else HEADER_PORT if goal in self.sized else END_HEIGHT / 2
                found.append(_Wire(goal, tuple(y for y, _, _ in lefts), self.tops[goal, column + 1] + port))
        return in_order(found)


class _Wire(Value):
    """All ways to one goal between two columns."""

    goal: Key
    lefts: tuple[float, ...]
    right: float

    @property
    def span(self) -> tuple[float, float]:
        return min(*self.lefts, self.right), max(*self.lefts, self.right)


def crossings(first: _Wire, second: _Wire) -> int:
    """How often these wires cross if the track of the first is left of that of the second."""
    top, bottom = first.span
    other_top, other_bottom = second.span
    found = sum(top <= y <= bottom for y in second.lefts) + (other_top <= first.right <= other_bottom)
    # One that leaves at the height at which the other arrives would lie on it.
    return found + 4 * sum(abs(y - first.right) < TRACK_STEP for y in second.lefts)


def in_order(wires: list[_Wire]) -> list[_Wire]:
    """The wires in an order of tracks in which few cross."""
    ordered = sorted(wires, key=lambda wire: -wire.right)
    improved = True
    rounds = 0
    while improved and rounds < len(ordered):
        improved = False
        rounds += 1
        for at in range(len(ordered) - 1):
            left, right = ordered[at], ordered[at + 1]
            if crossings(right, left) < crossings(left, right):
                ordered[at], ordered[at + 1] = right, left
                improved = True
    return ordered


# --- everything -------------------------------------------------------------------------------------------


def laid_out(picture: Picture) -> Drawn:
    """The picture with a place for everything."""
    tables = [_Table(band) for band in picture.bands]
    last = max((table.last for table in tables), default=0)
    rooms = [text_room(tables, column) for column in range(last + 1)]
    for table in tables:
        table.place(rooms, counted=picture.counted)
    wires = [[table.wires(column) for column in range(last)] for table in tables]
    gutters = [
        2 * GUTTER_EDGE + TRACK_STEP * max(0, max(len(rows[column]) for rows in wires) - 1) for column in range(last)
    ]
    widths = [widest(tables, column) for column in range(last + 1)]
    hooks = [hook for hook, _ in picture.stops()]
    xs: list[float] = [MARGIN + PAD + 8 + RAIL_STEP * max(1, len(hooks)) + 16]
    for column in range(last):
        xs.append(xs[-1] + widths[column] + gutters[column])
    inner = xs[-1] + widths[-1] + PAD + 8
    whole = max(LEAST_WIDTH, inner + MARGIN)
    texts, top = heading(picture, whole)
    sign_top = top
    top += len(hooks) * 34 + 14
    bands = []
    for table, found in zip(tables, wires, strict=True):
        bands.append(drawn_band(table, found, xs, widths, top, whole))
        top = bands[-1].box.bottom + 18
    rails = tuple(drawn_rails(hooks, bands, sign_top))
    legend, top = drawn_legend(picture, top + 14, whole)
    for note in picture.notes:
        for line in wrapped(note, whole - 2 * MARGIN - PAD, NOTE_SIZE, lines=4):
            texts.append(Text(MARGIN, top, line, NOTE_SIZE, "note"))
            top += NOTE_LEADING
    return Drawn(whole, top + 10, picture, tuple(texts), rails, tuple(bands), legend)


def text_room(tables: Sequence[_Table], column: int) -> float:
    """How wide the text in the cards of a column may be."""
    longest = max(
        (len(card.rows) for table in tables for card in table.band.cards if table.depths[card.key] == column), default=0
    )
    return TEXT_ROOM if longest > FEW_ROWS else NARROW_ROOM


def widest(tables: Sequence[_Table], column: int) -> float:
    """The width of a column: that of its widest card; of an end in the last."""
    found = [
        table.sized[card.key].width for table in tables for card in table.band.cards if table.depths[card.key] == column
    ]
    if any(table.band.ends and table.last == column for table in tables):
        found += [end_width(end) for table in tables for end in table.band.ends]
    return max(found, default=0.0)


def end_width(end: End) -> float:
    return max(
        END_WIDTH,
        width(end.title, END_TITLE, bold=True) + 2 * PAD + 8,
        *(width(line, ABOUT_SIZE) + 2 * PAD + 8 for line in end_about(end)),
    )


def end_about(end: End) -> list[str]:
    """At most two lines; what was counted behind the last, or on the next where there is no room."""
    room = END_WIDTH - 2 * PAD - 8
    lines = wrapped(end.about, room, ABOUT_SIZE, lines=2)
    if end.packets is None:
        return lines
    counted = f"· {number(end.packets)}"
    if width(f"{lines[-1]} {counted}", ABOUT_SIZE) <= room or len(lines) == 2:
        return [*lines[:-1], f"{lines[-1]} {counted}".strip()]
    return [*lines, counted]


def heading(picture: Picture, whole: float) -> tuple[list[Text], float]:
    """The title, and the settings below it."""
    room = whole - 2 * MARGIN
    texts = [Text(MARGIN, MARGIN + 20, cut(picture.title, room, TITLE_SIZE, bold=True), TITLE_SIZE, "title", bold=True)]
    top = MARGIN + 44.0
    if picture.said:
        for line in wrapped(picture.said, room, SAID_SIZE, lines=3):
            texts.append(Text(MARGIN, top, line, SAID_SIZE, "said"))
            top += SAID_LEADING
    return texts, top + 4


def drawn_band(
    table: _Table, wires: list[list[_Wire]], xs: list[float], widths: list[float], top: float, whole: float
) -> DrawnBand:
    y = top + BAND_HEAD
    cards = []
    for card in table.band.cards:
        column = table.depths[card.key]
        sized = table.sized[card.key]
        cards.append(sized.drawn(xs[column], y + table.tops[card.key, column], widths[column]))
    ends = [drawn_end(end, xs[-1], y + table.tops[end.key, table.last], widths[-1]) for end in table.band.ends]
    ways = tuple(drawn_ways(table, wires, xs, widths, y))
    box = Box(MARGIN, top, whole - 2 * MARGIN, BAND_HEAD + table.height + BAND_FOOT)
    left = xs[0]
    name = Text(left, top + 28, table.band.table, 17, "table", bold=True)
    about = Text(left + name.box.w + 12, top + 28, table.band.about, 12, "about")
    return DrawnBand(box, table.band, (name, *([about] if about.text else [])), tuple(cards), tuple(ends), ways)


def drawn_end(end: End, x: float, y: float, wide: float) -> DrawnEnd:
    box = Box(x, y, wide, END_HEIGHT)
    lines = end_about(end)
    top = y + (END_HEIGHT - END_TITLE - WHY_LEADING * len(lines)) / 2 + 0.8 * END_TITLE
    texts = [Text(x + PAD + 4, top, end.title, END_TITLE, "end", bold=True)]
    for at, line in enumerate(lines, 1):
        texts.append(Text(x + PAD + 4, top + 2 + at * WHY_LEADING, line, ABOUT_SIZE, "end-about"))
    return DrawnEnd(box, end, tuple(texts))


def drawn_ways(
    table: _Table, wires: list[list[_Wire]], xs: list[float], widths: list[float], top: float
) -> Iterator[Way]:
    """Each way from its row to its goal, through every column in between."""
    tracks: dict[tuple[Key, int], float] = {}
    rights: dict[tuple[Key, int], float] = {}
    for column, found in enumerate(wires):
        first = xs[column] + widths[column] + GUTTER_EDGE
        room = xs[column + 1] - GUTTER_EDGE - first
        step = room / max(1, len(found) - 1) if len(found) > 1 else 0
        for at, wire in enumerate(found):
            tracks[wire.goal, column] = first + at * step if len(found) > 1 else first + room / 2
            rights[wire.goal, column] = wire.right
    for card in table.band.cards:
        start = table.depths[card.key]
        for at, row, goal in table.ways_from(card):
            y = table.tops[card.key, start] + table.sized[card.key].port(at)
            points = [(xs[start] + widths[start], top + y)]
            for column in range(start, table.column_of(goal)):
                right = rights[goal, column]
                if abs(right - y) >= 0.5:
                    points += [(tracks[goal, column], top + y), (tracks[goal, column], top + right)]
                y = right
            points.append((xs[table.column_of(goal)], top + y))
            yield Way(tuple(points), way_kind(table, row, goal), row.packets, card.key, goal)


def way_kind(table: _Table, row: Row, goal: Key) -> Kind:
    """The meaning of a way is that of its goal; into a chain, that of the row."""
    for end in table.band.ends:
        if end.key == goal:
            return end.kind
    return row.kind if row.ours else Kind.OTHERS


def drawn_rails(hooks: list[str], bands: Sequence[DrawnBand], top: float) -> Iterator[Rail]:
    """One rail for each hook that is drawn, its sign above those of the rails further right."""
    for at, hook in enumerate(hook for hook in SIGNS if hook in hooks):
        x = MARGIN + PAD + 8 + RAIL_STEP * at
        text = f"{hook}: {SIGNS[hook]}"
        y = top + at * 34
        sign = Box(x - 12, y, width(text, ASK_SIZE, bold=True) + 38, 26)
        stops = tuple(
            (card.box.x, card.box.y + HEADER_PORT)
            for band in bands
            for card in band.cards
            if card.card.is_hook and card.card.chain == hook
        )
        label = Text(x + 14, y + 17.5, text, ASK_SIZE, "sign", bold=True)
        yield Rail(hook, sign, label, x, max(stop for _, stop in stops), stops)


def drawn_legend(picture: Picture, top: float, whole: float) -> tuple[tuple[Sample, ...], float]:
    """The meaning of the colours that are used, and of the numbers."""
    rows = [row for card in picture.cards for row in card.rows]
    used = {row.kind for row in rows} | {end.kind for band in picture.bands for end in band.ends}
    if not all(row.ours for row in rows):
        used.add(Kind.OTHERS)
    samples = []
    x = float(MARGIN)
    for kind in Kind:
        if kind in used:
            text = Text(x + 34, top, kind.value, NOTE_SIZE, "note")
            if text.box.right > whole - MARGIN:
                x, top = float(MARGIN), top + NOTE_LEADING + 4
                text = Text(x + 34, top, kind.value, NOTE_SIZE, "note")
            samples.append(Sample(x, top - 4, kind, text))
            x = text.box.right + 26
    return tuple(samples), top + 26
