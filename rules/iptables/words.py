"""A rule in words: what it asks for, and what becomes of it. For people who read no iptables at 3 a.m."""

from __future__ import annotations

from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rules.netfilter.matches import Match, Plain
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Network, Ports

PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "icmp": "ICMP", "ipv6-icmp": "ICMPv6"}
STATES = {
    "NEW": "that begins a connection",
    "ESTABLISHED": "of an established connection",
    "RELATED": "related to a connection",
    "INVALID": "that conntrack cannot place",
    "UNTRACKED": "that conntrack is not to see",
}


def rule_words(rule: Rule) -> str:
    """The rule as a sentence without its full stop: `TCP to port 22 is let go`."""
    subject = packets(rule.matches)
    return f"{subject}{',' if ', not ' in subject else ''} {becomes(rule.target)}"


def packets(matches: Sequence[Match]) -> str:
    """What all these matches hold for. What is said comes first, what is denied behind it."""
    subject = next((subject_of(match) for match in matches if subject_of(match)), "everything")
    rest = [match for match in matches if not subject_of(match)]
    text = " ".join(words(match) for match in rest if not isinstance(match, m.Not))
    for which in ("to", "from"):
        # `to 10.0.0.1 to port 53` is one place.
        place, its, port = text.partition(f" {which} port")
        if its and f" {which} " in f" {place}":
            text = f"{place} port{port}"
    denied = [f"not {words(match.match)}" for match in rest if isinstance(match, m.Not)]
    return ", ".join([f"{subject} {text}".rstrip(), *denied])


def subject_of(match: Match) -> str:
    """The noun of the sentence, if this match gives one."""
    match match:
        case m.Proto(name):
            return PROTOCOLS.get(name, f"protocol {name}")
        case m.Not(m.Proto(name)):
            return f"everything but {PROTOCOLS.get(name, f'protocol {name}')}"
        case _:
            return ""


def words(match: Plain | m.Foreign | m.Native) -> str:
    """What one match says of a packet."""
    match match:
        case m.Proto(name):
            return f"of {PROTOCOLS.get(name, f'protocol {name}')}"
        case m.Src(network):
            return f"from {address(network)}"
        case m.Dst(network):
            return f"to {address(network)}"
        case m.InIface(name):
            return f"that came in on {interface(name)}"
        case m.OutIface("lo"):
            return "over lo"
        case m.OutIface(name):
            return f"that leaves on {interface(name)}"
        case m.DPort(ports):
            return f"to {port_words([ports])}"
        case m.SPort(ports):
            return f"from {port_words([ports])}"
        case m.DPorts(ranges):
            return f"to {port_words(ranges)}"
        case m.OwnerUid(uid):
            return f"by uid {uid}"
        case m.OwnerUids(first, last):
            return f"by uids {first} to {last}"
        case m.OwnerGid(gid):
            return f"by gid {gid}"
        case m.CtState(states):
            return " or ".join(STATES.get(state, f"in state {state}") for state in sorted(states))
        case m.Mark(value):
            return f"with mark {value:#x}"
        case m.ConnMark(value):
            return f"whose connection has mark {value:#x}"
        case m.Limit(rate):
            return f"up to {rate}"
        case m.Foreign(text) | m.Native(_, text):
            return f"for which `{text}` holds"
        case _:
            assert_never(match)


def becomes(target: Target) -> str:
    """What a target does with a packet."""
    match target:
        case t.Return():
            return "is let go"
        case t.Accept():
            return "is let through"
        case t.Drop():
            return "is dropped"
        case t.Jump(chain):
            return f"is sent to {chain}"
        case t.Redirect(port):
            return f"goes to port {port} on this host"
        case t.Dnat(to, port):
            return f"goes to {to} port {port}"
        case t.Tproxy(port, mark):
            return f"goes unchanged to the listener on port {port}, with mark {mark:#x}"
        case t.SetMark(value):
            return f"gets mark {value:#x}, and goes on"
        case t.SaveMark():
            return "has its connection remember its mark, and goes on"
        case t.RestoreMark():
            return "gets the mark of its connection, and goes on"
        case t.Zone(zone):
            return f"is kept in conntrack zone {zone}, and goes on"
        case t.Reject("tcp-reset"):
            return "is refused with a reset"
        case t.Reject():
            return "is refused with an ICMP error"
        case t.Log(prefix):
            return f'is logged as "{prefix}", and goes on'
        case t.Nflog(group, prefix):
            return f'is logged to nflog group {group} as "{prefix}", and goes on'
        case t.ForeignTarget("") | t.NativeTarget(_, ""):
            return "is counted, and goes on"
        case t.ForeignTarget(text) | t.NativeTarget(_, text):
            return f"meets `{text}`"
        case _:
            assert_never(target)


def address(network: Network) -> str:
    """A network; one address without its prefix length."""
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def interface(name: str) -> str:
    return f"an interface {name[:-1]}…" if name.endswith("+") else name


def port_words(ranges: Iterable[Ports]) -> str:
    """`port 22`, `ports 22, 80 and 8000 to 8080`."""
    named = [str(ports.first) if ports.first == ports.last else f"{ports.first} to {ports.last}" for ports in ranges]
    if not named:
        return "no port"
    several = len(named) > 1 or " " in named[0]
    return f"port{'s' if several else ''} {listed(named)}"


def listed(names: Sequence[str], most: int = 0) -> str:
    """`a`, `a and b`, `a, b and c`; with `most`, only so many of them, and how many more there are."""
    if most and len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
