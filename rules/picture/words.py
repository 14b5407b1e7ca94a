"""Matches and targets in the few words that fit into a picture: `tcp → :22`, `not to 127.0.0.1`, `uid 1337`."""

from __future__ import annotations

from rules.iptables.words import address
from rules.iptables.writing import COMMENT
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.picture.text import number, shown
from rules.plan.names import PROXY_LOOP_MARK
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rules.netfilter.matches import Match, Plain
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Ports

MOST_NAMED = 12
"""How many entries of a list are named before the rest is counted."""
ANYTHING = "anything"
LO = "lo"


def matches_in_words(rule: Rule) -> str:
    """What the rule asks about a packet, in one line."""
    plain: dict[type[Match], list[str]] = {}
    denied: dict[type[Match], list[str]] = {}
    for match in rule.matches:
        if isinstance(match, m.Not):
            denied.setdefault(type(match.match), []).append(match_words(match.match))
        elif not isinstance(match, m.Foreign | m.Native) and type(match) not in SAID_BEFORE:
            plain.setdefault(type(match), []).append(match_words(match))
    parts = [part for kind in ORDER for part in (*plain.get(kind, ()), *denial(denied.get(kind, ())))]
    return " · ".join(filter(None, (transport(rule.matches), *parts, *of_others(rule)[1]))) or ANYTHING


def transport(matches: Sequence[Match]) -> str:
    """Protocol, destination and port, which belong together: `tcp → 10.0.0.1:53`."""
    protocols = [match.name for match in matches if isinstance(match, m.Proto)]
    networks = [address(match.network) for match in matches if isinstance(match, m.Dst)]
    ports = [match_words(match) for match in matches if isinstance(match, m.DPort | m.DPorts)]
    protocol = shown(" ".join(protocols))
    if not ports:
        return " ".join(filter(None, (protocol, *(f"to {network}" for network in networks))))
    goal = networks[0] if networks else ""
    joint = " " if "/" in goal else ""
    goal = f"[{goal}]" if ":" in goal and not joint else goal
    return f"{protocol} → {goal}{joint}{' '.join(ports)}".strip()


def denial(words: Sequence[str]) -> list[str]:
    """What is denied of one kind, in one list."""
    if len(words) < 2:
        return [f"not {each}" for each in words]
    word, _, _ = words[0].partition(" ")
    return [f"not {word} {listed([each.partition(' ')[2] for each in words])}"]


def match_words(match: Plain) -> str:
    match match:
        case m.Proto(name):
            return shown(name)
        case m.Src(network):
            return f"from {address(network)}"
        case m.Dst(network):
            return f"to {address(network)}"
        case m.InIface(name):
            return "over lo" if name == LO else f"arrives on {shown(name)}"
        case m.OutIface(name):
            return "over lo" if name == LO else f"leaves on {shown(name)}"
        case m.DPort(ports):
            return port_words([ports])
        case m.DPorts(ranges):
            return port_words(ranges)
        case m.SPort(ports):
            return f"from port {range_words(ports)}"
        case m.OwnerUid(uid):
            return f"uid {uid}"
        case m.OwnerUids(first, last):
            return f"uid {first}–{last}"
        case m.OwnerGid(gid):
            return f"gid {gid}"
        case m.CtState(states):
            return " or ".join(shown(state).lower() for state in sorted(states))
        case m.Mark(value):
            return f"mark {value:#x}"
        case m.ConnMark(value):
            return f"connmark {value:#x}"
        case m.Limit(rate):
            return f"at most {shown(rate)}"
        case _:
            assert_never(match)


ORDER = (
    m.InIface,
    m.OutIface,
    m.OwnerUid,
    m.OwnerUids,
    m.OwnerGid,
    m.Proto,
    m.Src,
    m.SPort,
    m.Dst,
    m.DPort,
    m.DPorts,
    m.CtState,
    m.Mark,
    m.ConnMark,
    m.Limit,
)
SAID_BEFORE = (m.Proto, m.Dst, m.DPort, m.DPorts)
"""What `transport` says, where it is not negated."""


def port_words(ranges: Iterable[Ports]) -> str:
    return listed([f":{range_words(ports)}" for ports in ranges])


def range_words(ports: Ports) -> str:
    return str(ports.first) if ports.first == ports.last else f"{ports.first}–{ports.last}"


def listed(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """`a, b, c`, or of a long list the beginning and how many more there are."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} … {number(len(names) - most)} more"


def of_others(rule: Rule) -> tuple[str, list[str]]:
    """What another tool says of its rule in a comment, and what it asks in words that are not ours."""
    texts = [match.text for match in rule.matches if isinstance(match, m.Foreign)]
    comments = [text.removeprefix(COMMENT) for text in texts if text.startswith(COMMENT)]
    comment = shown(comments[0].strip('"').replace('\\"', '"')) if comments else ""
    return comment, [shown(text) for text in texts if not text.startswith(COMMENT)]


def done(target: Target) -> str:
    """What becomes of a packet for which the rule holds."""
    match target:
        case t.Return():
            return "return"
        case t.Accept():
            return "accept"
        case t.Drop():
            return "drop"
        case t.Jump(chain):
            return f"→ {shown(chain)}"
        case t.Redirect(port):
            return f"redirect to :{port}"
        case t.Dnat(host, port):
            return f"to {f'[{host}]' if host.version == 6 else host}:{port}"
        case t.Tproxy(port, mark):
            return f"tproxy to :{port}, mark {mark:#x}"
        case t.SetMark(value):
            return f"mark {value:#x}" + (" (own pod)" if value == PROXY_LOOP_MARK else "")
        case t.SaveMark():
            return "remember mark"
        case t.RestoreMark():
            return "recall mark"
        case t.Zone(zone):
            return f"zone {zone}"
        case t.Reject(answer):
            return f"refuse: {shown(answer).removeprefix('icmp-').removeprefix('icmp6-').replace('-', ' ')}"
        case t.Log(prefix):
            return f"log “{shown(prefix)}”"
        case t.Nflog(group, prefix):
            return f"nflog {group} “{shown(prefix)}”"
        case t.NativeTarget(_, text):
            return shown(text) or "count only"
        case t.ForeignTarget(text):
            return shown(text.removeprefix("-j ").replace("-g ", "goto ")) or "count only"
        case _:
            assert_never(target)


NOUNS = {
    m.Dst: "destinations",
    m.Src: "sources",
    m.DPort: "ports",
    m.DPorts: "lists of ports",
    m.OwnerUid: "users",
    m.OwnerUids: "ranges of users",
    m.OwnerGid: "groups",
    m.InIface: "interfaces",
    m.OutIface: "interfaces",
}


def noun(rules: Sequence[Rule]) -> str:
    """In what these rules of one shape differ, in one word."""
    changing = {type(match) for rule in rules for match in rule.matches if match not in rules[0].matches}
    if len(changing) == 1:
        return NOUNS.get(changing.pop(), "such rules")
    return "such rules"


def differing(rules: Sequence[Rule]) -> list[str]:
    """What each of these rules of one shape asks that not all of them ask."""
    common = frozenset(rules[0].matches).intersection(*(rule.matches for rule in rules[1:]))
    parts = [
        matches_in_words(rule.but(matches=tuple(match for match in rule.matches if match not in common)))
        for rule in rules
    ]
    return [part.removeprefix("to ").removeprefix("from ").removeprefix("→ ") for part in parts]
