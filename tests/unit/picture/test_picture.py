"""Pictures: what rows say, what is folded, where rows lead, what others could smuggle in."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from rules.addresses import IPv4Network
from rules.iptables.counters import Count, counters
from rules.iptables.reading import tables
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.rulesets import Rule, Ruleset
from rules.netfilter.values import Family, Ports
from rules.ours.reasons import explained
from rules.picture.dot import dot
from rules.picture.mermaid import mermaid
from rules.picture.model import Kind, picture
from rules.picture.svg import COLOURS, PAGE, svg
from rules.picture.text import cut, shown, width, wrapped
from rules.picture.words import matches_in_words
from rules.plan.flows.words import TCP, UDP
from rules.plan.intent import TPROXY, Intent, UdpPolicy
from rules.plan.names import ISTIO_DIVERT, ISTIO_IN_REDIRECT, ISTIO_INBOUND, ISTIO_OUTPUT, ISTIO_REDIRECT
from rules.plan.plan import ruleset
from tests import write_pictures
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from rules.picture.model import Card, Picture, Row

HERE = IPv4Network("127.0.0.1/32")
TEN = IPv4Network("10.0.0.0/8")
LO = m.OutIface("lo")


def made(intent: Intent | None = None) -> Picture:
    return picture(ruleset(intent or Intent(), Family.V4), title="title", said="said")


def live(text: str) -> Picture:
    held = explained(Ruleset(Family.V4, tables(text)))
    return picture(held, title="live", said="", counted=counters(text))


def card(drawn: Picture, table: str, chain: str) -> Card:
    (found,) = [it for band in drawn.bands if band.table == table for it in band.cards if it.chain == chain]
    return found


def rows(drawn: Picture) -> list[Row]:
    return [row for band in drawn.bands for it in band.cards for row in it.rows]


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matches", "words"),
    [
        ((), "anything"),
        ((TCP, m.DPort(Ports.one(22))), "tcp → :22"),
        ((UDP, m.DPort(Ports(8000, 8010)), m.Dst(HERE)), "udp → 127.0.0.1:8000–8010"),
        ((TCP, m.DPort(Ports.one(53)), m.Dst(TEN)), "tcp → 10.0.0.0/8 :53"),
        ((TCP, m.DPorts((Ports.one(80), Ports.one(443)))), "tcp → :80, :443"),
        ((m.OwnerUid(1337),), "uid 1337"),
        ((m.OwnerUids(5, 9),), "uid 5–9"),
        ((LO, m.Not(m.OwnerUid(1)), m.Not(m.OwnerUid(2)), m.Not(m.OwnerGid(3))), "over lo · not uid 1, 2 · not gid 3"),
        (
            (LO, m.Not(m.Dst(HERE)), TCP, m.Not(m.DPort(Ports.one(15008)))),
            "tcp · over lo · not to 127.0.0.1 · not :15008",
        ),
        ((m.InIface("eth1"), m.Src(TEN)), "arrives on eth1 · from 10.0.0.0/8"),
        ((UDP, m.SPort(Ports.one(53))), "udp · from port 53"),
        ((m.Not(TCP), m.CtState(frozenset({"NEW", "RELATED"}))), "not tcp · new or related"),
        ((m.Not(m.Mark(1338)),), "not mark 0x53a"),
        ((m.Foreign("-m addrtype --dst-type LOCAL"),), "-m addrtype --dst-type LOCAL"),
    ],
)
def test_matches_are_said_in_short_words(matches: tuple[m.Match, ...], words: str) -> None:
    """As one would say them."""
    assert matches_in_words(Rule(matches, t.Return())) == words


def test_a_long_list_is_counted() -> None:
    """The beginning is named, the rest is counted."""
    words = matches_in_words(Rule(tuple(m.Not(m.OwnerGid(gid)) for gid in range(40)), t.Return()))
    assert words == "not gid 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 … 28 more"


# --- text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["tcp → :22", "W" * 400, "a " * 300, "语言" * 80, ""])
def test_text_stays_in_its_room(text: str) -> None:
    """Wrapped or cut, no line is wider than it may be, and what is left out is seen to be."""
    assert width(cut(text, 90, 12), 12) <= 90
    lines = wrapped(text, 90, 12, lines=3)
    assert len(lines) <= 3
    assert all(width(line, 12) <= 90 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "") or lines[-1].endswith("…")


def test_what_cannot_be_seen_is_shown() -> None:
    """Control characters, and those that turn the direction of a line, are written out."""
    assert shown("a\x1b[31m\u202eb\x00\n") == "a\\x1b[31m\\u202eb\\x00\\x0a"


def test_colours_can_be_read() -> None:
    """Each colour has a contrast of 4.5 to 1 with white, as text and below white text, and with the page's ground."""
    for colour in COLOURS.values():
        assert contrast(colour, "#ffffff") >= 4.5, colour
        assert contrast(colour, PAGE) >= 4, colour


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# --- what is drawn ----------------------------------------------------------------------------------------


def test_the_plain_capture_has_two_ways_in_and_four_ends() -> None:
    """OUTPUT and PREROUTING; the proxy's two listeners, and what is not captured in each direction."""
    drawn = made()
    (nat,) = drawn.bands
    assert [it.chain for it in nat.cards if it.is_hook] == ["OUTPUT", "PREROUTING"]
    assert {(end.title, end.about) for end in nat.ends} == {
        ("Proxy :15001", "its outbound listener"),
        ("Proxy :15006", "its inbound listener"),
        ("Not captured", "goes out as it was sent"),
        ("Not captured", "reaches the application itself"),
    }
    last = card(drawn, "nat", ISTIO_OUTPUT).rows[-1]
    assert (last.asks, last.does, last.kind, last.goal) == (
        "anything else",
        "→ ISTIO_REDIRECT",
        Kind.OUTBOUND,
        ("nat", ISTIO_REDIRECT),
    )
    assert last.why == "everything else goes to the proxy"


def test_a_listed_port_leaves_the_others_uncaptured() -> None:
    """Where the last rule does not decide, the card says what becomes of the rest."""
    last = card(made(Intent(inbound_ports=(Ports.one(80),))), "nat", ISTIO_INBOUND).rows[-1]
    assert (last.asks, last.does, last.kind, last.rules) == ("otherwise", "bypass", Kind.BYPASS, 0)


def test_a_chain_that_is_only_entered_with_tcp_needs_no_otherwise() -> None:
    """`tcp → REDIRECT` decides about all that comes from `tcp → ISTIO_OUTPUT`; with DNS capture UDP comes as well."""
    assert [row.rules for row in card(made(), "nat", ISTIO_REDIRECT).rows] == [1]
    with_udp = card(made(Intent(redirect_dns=True, capture_all_dns=True)), "nat", ISTIO_REDIRECT)
    assert [row.asks for row in with_udp.rows] == ["tcp", "otherwise"]
    assert with_udp.rows[-1].does == "back to ISTIO_OUTPUT"


def test_return_is_no_bypass_where_nothing_captures() -> None:
    """In the filter table and where marks are set, RETURN means that the packet goes on."""
    drawn = made(Intent(interception_mode=TPROXY, udp=(UdpPolicy(Ports.one(443), "reject"),)))
    for table in ("mangle", "filter"):
        assert Kind.BYPASS not in {row.kind for row in card(drawn, table, ISTIO_OUTPUT).rows}
    assert Kind.BYPASS in {row.kind for row in card(drawn, "mangle", ISTIO_INBOUND).rows}
    refused = card(drawn, "filter", ISTIO_OUTPUT).rows[-2]
    assert (refused.does, refused.kind) == ("refuse: port unreachable", Kind.STOPPED)
    assert refused.goal


def test_an_established_connection_ends_at_the_proxy() -> None:
    """ISTIO_DIVERT accepts, which leads to the listener that TPROXY leads to."""
    drawn = made(Intent(interception_mode=TPROXY))
    accept = card(drawn, "mangle", ISTIO_DIVERT).rows[-1]
    assert (accept.does, accept.kind) == ("to its socket", Kind.INBOUND)
    assert accept.goal == card(drawn, "mangle", "ISTIO_TPROXY").rows[0].goal


def test_a_chain_that_nothing_leads_to_is_marked() -> None:
    """With TPROXY nobody enters ISTIO_INBOUND of nat."""
    aside = card(made(Intent(interception_mode=TPROXY)), "nat", ISTIO_INBOUND)
    assert (aside.is_entered, aside.about) == (False, "no rule leads here")


# --- folding ----------------------------------------------------------------------------------------------


def test_ten_thousand_destinations_are_one_row() -> None:
    """The first two are shown, the others counted, with their positions and how they go on."""
    cidrs = tuple(IPv4Network((0x0A000000 + at * 512, 24)) for at in range(10_000))
    drawn = made(Intent(outbound_cidrs_exclude=cidrs))
    folded = [row for row in card(drawn, "nat", ISTIO_OUTPUT).rows if row.rules > 1]
    assert [(row.asks, row.place, row.why) for row in folded] == [
        (
            "… 9,998 more destinations not captured",
            "11–10008",
            "10.0.4.0/24, 10.0.6.0/24, 10.0.8.0/24 … 10.78.30.0/24",
        )
    ]
    assert len(svg([drawn])) < 40_000


def test_a_rule_that_counted_packets_is_not_folded() -> None:
    """Among a hundred ports the one that is used is seen."""
    intent = Intent(outbound_cidrs_exclude=tuple(IPv4Network((0x0A000000 + at * 512, 24)) for at in range(100)))
    held = ruleset(intent, Family.V4)
    drawn = picture(held, title="", counted={("nat", ISTIO_OUTPUT, 50): Count(7, 0)})
    found = card(drawn, "nat", ISTIO_OUTPUT).rows
    assert [(row.place, row.packets) for row in found if row.rules > 1] == [("11–49", 0), ("51–108", 0)]
    assert [(row.asks, row.packets) for row in found if row.packets] == [("to 10.0.82.0/24", 7)]
    bypass = [end for band in drawn.bands for end in band.ends if end.about == "goes out as it was sent"]
    assert [end.packets for end in bypass] == [7]


# --- rules of others --------------------------------------------------------------------------------------

NASTY = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT DROP [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:x<script>&"'--> - [0:0]
[5:300] -A OUTPUT -m comment --comment "</text><script>alert(1)</script> ]]> \\" %% end; \x1b[0m #quot;" -j ACCEPT
[1:60] -A OUTPUT -o e`<>;#&% -j x<script>&"'-->
[4:240] -A OUTPUT -p tcp -j ISTIO_OUTPUT
[3:180] -A ISTIO_OUTPUT -j ISTIO_REDIRECT
[2:120] -A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 9999
[3:180] -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
[0:0] -A x<script>&"'--> -j MASQUERADE
COMMIT
"""


def test_rules_of_others_are_seen_not_to_be_ours() -> None:
    """In hooks what is no jump of ours; in our chains what nobody can give a reason for; chains that are not ours."""
    drawn = live(NASTY)
    hook = card(drawn, "nat", "OUTPUT")
    assert [row.ours for row in hook.rows] == [False, False, True, True]
    assert hook.rows[-1].does == "policy: drop"
    assert [row.ours for row in card(drawn, "nat", ISTIO_OUTPUT).rows] == [True, False]
    assert card(drawn, "nat", ISTIO_OUTPUT).rows[1].goal is None
    assert not card(drawn, "nat", "x<script>&\"'-->").ours
    assert [row.packets for row in hook.rows] == [5, 1, 4, None]


def test_nasty_text_is_text_in_svg() -> None:
    """No element comes out of a comment, a chain or an interface, and what XML cannot hold is written out."""
    root = ElementTree.fromstring(svg([live(NASTY)]))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names == {"svg", "title", "desc", "style", "defs", "marker", "path", "rect", "g", "text", "circle"}
    words = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert any("x<script>&" in text for text in words)
    assert any("</text><script>" in text.replace(" ", "") for text in words)


def test_nasty_text_is_text_in_mermaid() -> None:
    """Outside of quotes there are only our own names; inside there is nothing that ends them."""
    for line in mermaid([live(NASTY)]).splitlines()[3:]:
        parts = line.split('"')
        assert len(parts) % 2
        assert "script" not in "".join(parts[::2])
        assert not set("".join(parts[1::2]).replace("<br/>", "")) & set('<>"`&%\\')


@pytest.mark.skipif(not shutil.which("dot"), reason="not installed: dot, of graphviz")
@pytest.mark.parametrize("intent", [Intent(), Intent(interception_mode=TPROXY, drop_invalid=True)])
def test_graphviz_draws_it(intent: Intent) -> None:
    """Without a complaint, nasty text included."""
    done = subprocess.run(
        ["dot", "-Tsvg"],
        input=dot([made(intent), live(NASTY)]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ISTIO_OUTPUT" in done.stdout


def test_chains_of_others_that_are_not_drawn_are_counted() -> None:
    """A node's three hundred chains do not fill the picture."""
    names = [f"KUBE-{at}" for at in range(300)]
    lines = ["*nat", *(f":{name} - [0:0]" for name in names)]
    lines += [f"-A OUTPUT -j {name}" for name in names] + [f"-A {name} -j MASQUERADE" for name in names] + ["COMMIT"]
    drawn = live("\n".join(lines) + "\n")
    (nat,) = drawn.bands
    assert len(nat.cards) == 7
    assert "nat: 294 more chains of others with 294 rules not drawn" in drawn.notes


def test_an_empty_ruleset_is_a_picture_that_says_so() -> None:
    """Nothing but title and notes."""
    drawn = picture(Ruleset(Family.V6), title="empty", notes=["IPv6 is not captured."])
    text = svg([drawn])
    assert "IPv6 is not captured." in text
    assert "<circle" not in text
    assert mermaid([drawn])
    assert dot([drawn])


def test_a_jump_out_of_order_is_drawn_all_the_same() -> None:
    """Chains that enter each other in a circle cannot be in the kernel; text that says so ends in a picture."""
    text = "*nat\n:A - [0:0]\n:B - [0:0]\n-A OUTPUT -j A\n-A A -j B\n-A B -j A\nCOMMIT\n"
    assert svg([live(text)])


# --- the pictures of the documentation --------------------------------------------------------------------


@pytest.mark.parametrize("file", write_pictures.pictures(), ids=lambda file: file.name)
def test_the_pictures_of_the_pages_are_fresh(file: Path) -> None:
    """`make docs` would change nothing."""
    assert file.read_text(encoding="utf-8") == write_pictures.pictures()[file], "run `make docs`"


@pytest.mark.parametrize("file", write_pictures.pictures(), ids=lambda file: file.name)
def test_the_pictures_of_the_pages_are_legible_there(file: Path) -> None:
    """No text is smaller than 8 pixels where a page is as wide as GitHub's, which is 830."""
    drawn = write_pictures.pictures()[file]
    found = re.search(r'width="([\d.]+)"', drawn)
    assert found
    assert min(map(float, re.findall(r'font-size="([\d.]+)"', drawn))) * 830 / float(found[1]) >= 8


def test_every_picture_is_shown() -> None:
    """In `docs/graph.md`, with the command that prints it."""
    page = (ROOT / "docs" / "graph.md").read_text(encoding="utf-8")
    for file in write_pictures.pictures():
        assert f"](pictures/{file.name})" in page
    for command in (*write_pictures.COMMANDS.values(), write_pictures.LIVE):
        assert command in page


def test_ours_by_kind_is_what_the_legend_says() -> None:
    """The card of what is captured inbound has the colour of its end."""
    drawn = made()
    (row,) = card(drawn, "nat", ISTIO_IN_REDIRECT).rows
    assert row.kind is Kind.INBOUND
    assert all(it.kind is not Kind.OTHERS for it in rows(drawn))
