"""Pictures: whatever is planned or live, everything is in them, and nothing lies on anything else."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from rules.iptables.counters import Count
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.targets import Jump
from rules.netfilter.values import Family
from rules.picture.dot import dot
from rules.picture.layout import Box, laid_out
from rules.picture.mermaid import mermaid
from rules.picture.model import Kind, picture
from rules.picture.svg import svg
from rules.plan.plan import ruleset
from tests.property import strategies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.netfilter.rulesets import TableRules
    from rules.picture.layout import Drawn, DrawnBand, Text, Way
    from rules.picture.model import Picture
    from rules.plan.intent import Intent


def live_rulesets() -> st.SearchStrategy[Ruleset]:
    """What former runs and others may have left in one table."""
    names = st.sampled_from(("raw", "mangle", "nat", "filter"))
    tables = names.flatmap(lambda name: strategies.live_tables(name, Family.V4))
    return tables.map(lambda table: Ruleset(Family.V4, (table,)))


def planned(intent: Intent, family: Family) -> Picture:
    return picture(ruleset(intent, family), title="planned", said="")


def live(found: Ruleset) -> Picture:
    """With a counter for every third rule."""
    counts = {
        (table.table, chain, at): Count(at * 1000, 0)
        for table in found.tables
        for chain, rules in table.chains().items()
        for at in range(1, len(rules) + 1, 3)
    }
    return picture(found, title="live", said="", counted=counts)


@given(intent=strategies.intents, family=strategies.families)
def test_nothing_lies_on_anything_else_in_a_planned_picture(intent: Intent, family: Family) -> None:
    """Cards, ends and texts have their own room, and ways run between them from a row to what it leads to."""
    assert_readable(laid_out(planned(intent, family)))


@given(found=live_rulesets())
def test_nothing_lies_on_anything_else_in_a_live_picture(found: Ruleset) -> None:
    """The same with counters, drift and the rules of others."""
    assert_readable(laid_out(live(found)))


def boxes(drawn: Drawn) -> Iterator[Box]:
    """Everything that must not lie on anything else of its kind: cards, ends and signs."""
    for rail in drawn.rails:
        yield rail.sign
    for band in drawn.bands:
        yield from (card.box for card in band.cards)
        yield from (end.box for end in band.ends)


def texts(drawn: Drawn) -> Iterable[tuple[Box, Text]]:
    """Every text with the box that it must fit into."""
    page = Box(0, 0, drawn.width, drawn.height)
    yield from ((page, text) for text in drawn.texts)
    yield from ((page, sample.text) for sample in drawn.legend)
    yield from ((rail.sign, rail.text) for rail in drawn.rails)
    for band in drawn.bands:
        yield from ((band.box, text) for text in band.texts)
        for card in band.cards:
            yield from ((card.box, text) for text in card.texts)
            yield from ((row.box, text) for row in card.rows for text in row.texts)
        for end in band.ends:
            yield from ((end.box, text) for text in end.texts)


def assert_readable(drawn: Drawn) -> None:
    page = Box(0, 0, drawn.width, drawn.height)
    every = list(boxes(drawn))
    for box in every:
        assert page.holds(box)
    for one, other in combinations(every, 2):
        assert not one.overlaps(other), (one, other)
    written = list(texts(drawn))
    for box, text in written:
        assert box.holds(text.box), (box, text)
    for (one_box, one_text), (other_box, other_text) in combinations(written, 2):
        if one_box == other_box:
            assert not one_text.box.overlaps(other_text.box), (one_text, other_text)
    for one, other in combinations([band.box for band in drawn.bands], 2):
        assert not one.overlaps(other)
    for band in drawn.bands:
        assert_ways_are_clear(band)


def assert_ways_are_clear(band: DrawnBand) -> None:
    cards = {card.card.key: card for card in band.cards}
    places = {card.card.key: card.box for card in band.cards} | {end.end.key: end.box for end in band.ends}
    lines = []
    for way in band.ways:
        ports = [row.port for row in cards[way.source].rows if row.row.goal == way.goal]
        assert way.points[0][0] == places[way.source].right
        assert any(abs(way.points[0][1] - port) < 0.01 for port in ports)
        assert way.points[-1][0] == places[way.goal].x
        assert places[way.goal].y < way.points[-1][1] < places[way.goal].bottom
        for line in segments(way):
            for box in places.values():
                assert not line.overlaps(box), (line, box)
            lines.append((way.goal, line))
    for (goal, line), (other_goal, other) in combinations(lines, 2):
        is_along = (line.w > line.h) == (other.w > other.h)
        assert goal == other_goal or not is_along or not line.overlaps(other), (line, other)


def segments(way: Way) -> list[Box]:
    """Its straight parts, a pixel wide, without their ends."""
    found = []
    for (x, y), (to_x, to_y) in zip(way.points, way.points[1:], strict=False):
        left, top = min(x, to_x), min(y, to_y)
        if abs(x - to_x) > 2:
            found.append(Box(left + 0.5, top - 0.5, abs(x - to_x) - 1, 1))
        elif abs(y - to_y) > 2:
            found.append(Box(left - 0.5, top + 0.5, 1, abs(y - to_y) - 1))
    return found


@given(intent=strategies.intents, family=strategies.families)
def test_every_planned_rule_is_a_row_or_counted_in_one(intent: Intent, family: Family) -> None:
    """The positions of a card's rows are those of its chain, without a gap, and nothing is left to a note."""
    held = ruleset(intent, family)
    made = planned(intent, family)
    assert sum(row.rules for band in made.bands for card in band.cards for row in card.rows) == made.rules
    for band in made.bands:
        chains = held.table(band.table).chains()
        assert {card.chain for card in band.cards} == set(chains)
        for card in band.cards:
            places = [at for row in card.rows if row.first for at in range(row.first, row.last + 1)]
            assert places == list(range(1, len(chains[card.chain]) + 1))
            assert all(row.rules == (row.last - row.first + 1 if row.first else 0) for row in card.rows)
            assert all(row.why for row in card.rows if row.rules)


@given(found=live_rulesets())
def test_every_live_rule_of_a_drawn_chain_is_counted(found: Ruleset) -> None:
    """All hooks with rules and all our chains are drawn; a note says how many rules of others are not."""
    (table,) = found.tables
    made = live(found)
    chains = table.chains()
    cards = {card.chain: card for band in made.bands for card in band.cards}
    for chain, rules in chains.items():
        if rules and (table.is_built_in(chain) or is_ours(table, chain)):
            assert chain in cards
    for chain, card in cards.items():
        assert sum(row.rules for row in card.rows) == len(chains.get(chain, ()))
    left = sum(len(rules) for chain, rules in chains.items() if chain not in cards)
    noted = [note for note in made.notes if "not drawn" in note]
    assert len(noted) == bool(left)
    assert all(f" {left} rule" in note for note in noted)


def is_ours(table: TableRules, chain: str) -> bool:
    from rules.plan.names import OURS

    return chain in OURS[table.table]


@given(intent=strategies.intents, family=strategies.families)
def test_every_jump_that_is_planned_is_drawn(intent: Intent, family: Family) -> None:
    """Each row that jumps leads to the card of that chain, each redirection to an end, and none is of others."""
    held = ruleset(intent, family)
    for band in planned(intent, family).bands:
        chains = held.table(band.table).chains()
        goals = {card.key for card in band.cards} | {end.key for end in band.ends}
        for card in band.cards:
            for row in card.rows:
                assert row.goal is None or row.goal in goals
                assert row.ours
                assert row.kind is not Kind.OTHERS
                if row.first and isinstance(target := chains[card.chain][row.first - 1].target, Jump):
                    assert row.goal == (band.table, target.chain)


@given(intent=strategies.intents, found=live_rulesets())
def test_every_picture_is_well_formed(intent: Intent, found: Ruleset) -> None:
    """SVG is XML, and so are the labels of DOT; Mermaid has no line that could mean something else."""
    made = [planned(intent, Family.V4), live(found)]
    root = ElementTree.fromstring(svg(made))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for line in dot(made).splitlines():
        _, found_label, label = line.partition("[label=<")
        if found_label:
            ElementTree.fromstring(f"<label>{label[: label.rindex('>')]}</label>")
    for line in mermaid(made).splitlines()[4:]:
        assert line.count('"') % 2 == 0
        assert '"' not in "".join(line.split('"')[1::2])
