"""From values to the text that iptables-restore(8) reads."""

from __future__ import annotations

from rules.iptables.quoting import MARKER, quoted, restorable
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.value import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rules.netfilter.matches import Match, Plain
    from rules.netfilter.rulesets import Rule
    from rules.netfilter.targets import Target


def rule_text(rule: Rule) -> str:
    """The rule without its command and chain: `-p tcp --dport 22 -j RETURN`; a native one in the words of nft."""
    if rule.text.startswith(NFT_WORDS):
        return rule.text.removeprefix(NFT_WORDS)
    if m.Native in map(type, rule.matches):
        # What a map does with a packet is all told by its target.
        return " ".join(filter(None, (*map(match_text, rule.matches), native_target_text(rule.target))))
    words = [match_text(match) for match in rule.matches]
    done = target_text(rule.target)
    return " ".join([*words, done] if done else words)


def native_target_text(target: Target) -> str:
    """The target of a rule that asks what only nft has words for."""
    match target:
        case t.Return() | t.Accept() | t.Drop():
            return type(target).__name__.lower()
        case t.Jump(chain):
            return f"jump {chain}"
        case t.ForeignTarget(text):
            return text.replace("-g ", "goto ", 1)
        case _:
            return target_text(target)


def appending(chain: str, rules: Sequence[Rule], text: Callable[[Rule], str]) -> Iterator[str]:
    """The lines that append these rules to a chain, where `text` tells how one reads; of a long list, many in one."""
    before = f"-A {chain} "
    if isinstance(rules, tuple):
        yield from (f"{before}{text(rule)}".rstrip(" ") for rule in rules)
        return
    from rules.lists.long import Made, parts_of
    from rules.lists.networks import Networks

    for part in parts_of(rules):
        if isinstance(part, Made) and isinstance(part.items, Networks):
            # They differ in the network alone.
            begins, _, ends = f"{before}{text(next(part.anew()))}".partition(next(part.items.texts()))
            between = f"{ends}\n{begins}"
            yield from (f"{begins}{between.join(some.texts())}{ends}" for some in part.items.some())
        else:
            yield from (f"{before}{text(rule)}".rstrip(" ") for rule in part)


def restore_rule(rule: Rule) -> str:
    """The same as iptables-restore is given it: what the kernel printed goes back to the letter."""
    return restorable(rule.text) if rule.text else rule_text(rule)


def is_restorable(rule: Rule) -> bool:
    """Whether iptables-restore can be given this rule: it reads line by line, and has no words for native ones."""
    return "\n" not in rule.text and not rule.text.startswith(MARKER) and UNSUPPORTED not in rule.text


def reads_back(rule: Rule) -> bool:
    """Whether iptables-restore finds this live rule again by its text.

    Some modules compare more than they print (xt_recent), so it is sure only where we know every option.
    """
    known = (not isinstance(match, m.Foreign | m.Native) or match.text.startswith(COMMENT) for match in rule.matches)
    return is_restorable(rule) and not isinstance(rule.target, t.NativeTarget) and all(known)


NFT_WORDS = "nft: "
"""How the text of a rule of our own table of nf_tables begins, in the words that nft would be given."""
UNSUPPORTED = "[unsupported revision]"
"""What iptables-save prints of a match that only another iptables knows."""
COMMENT = "-m comment --comment "


def match_text(match: Match) -> str:
    match match:
        case m.Not(inner):
            module, option = module_and_option(inner)
            return f"{module}! {option}"
        case m.Foreign(text) | m.Native(_, text):
            return text
        case _:
            module, option = module_and_option(match)
            return module + option


def module_and_option(match: Plain) -> tuple[str, str]:
    """The match's module with a space behind it, if it must be named, and its option; `!` stands between them."""
    match match:
        case m.Proto(name):
            return "", f"-p {name}"
        case m.Src(network):
            return "", f"-s {network}"
        case m.Dst(network):
            return "", f"-d {network}"
        case m.InIface(name):
            return "", f"-i {name}"
        case m.OutIface(name):
            return "", f"-o {name}"
        case m.DPort(ports):
            return "", f"--dport {ports}"
        case m.SPort(ports):
            return "", f"--sport {ports}"
        case m.DPorts(ranges):
            return "-m multiport ", f"--dports {','.join(map(str, ranges))}"
        case m.OwnerUid(uid):
            return "-m owner ", f"--uid-owner {uid}"
        case m.OwnerUids(first, last):
            return "-m owner ", f"--uid-owner {first}-{last}"
        case m.OwnerGid(gid):
            return "-m owner ", f"--gid-owner {gid}"
        case m.CtState(states):
            return "-m conntrack ", f"--ctstate {','.join(sorted(states))}"
        case m.Mark(value):
            return "-m mark ", f"--mark {value:#x}"
        case m.ConnMark(value):
            return "-m connmark ", f"--mark {value:#x}"
        case m.Limit(rate):
            return "-m limit ", f"--limit {rate}"
        case _:
            assert_never(match)


def extension(match: Match) -> str:
    """The extension behind a match that is one, by the name under which the kernel registers it; else empty."""
    if isinstance(match, m.Foreign | m.Native | m.Not):
        return ""
    return module_and_option(match)[0].removeprefix("-m ").strip()


def target_extension(target: Target) -> str:
    """The same for a target."""
    if isinstance(target, t.Return | t.Accept | t.Drop | t.Jump | t.ForeignTarget | t.NativeTarget):
        return ""
    return target_text(target).split()[1]


def target_text(target: Target) -> str:
    match target:
        case t.Return():
            return "-j RETURN"
        case t.Accept():
            return "-j ACCEPT"
        case t.Drop():
            return "-j DROP"
        case t.Jump(chain):
            return f"-j {chain}"
        case t.Redirect(port):
            return f"-j REDIRECT --to-ports {port}"
        case t.Dnat(address, port):
            return f"-j DNAT --to-destination {f'[{address}]' if address.version == 6 else address}:{port}"
        case t.Tproxy(port, mark):
            return f"-j TPROXY --on-port {port} --tproxy-mark {mark:#x}/0xffffffff"
        case t.SetMark(value):
            return f"-j MARK --set-xmark {value:#x}/0xffffffff"
        case t.SaveMark():
            return "-j CONNMARK --save-mark"
        case t.RestoreMark():
            return "-j CONNMARK --restore-mark"
        case t.Zone(zone):
            return f"-j CT --zone {zone}"
        case t.Reject(answer):
            return f"-j REJECT --reject-with {answer}"
        case t.Log(prefix):
            return f"-j LOG --log-prefix {quoted(prefix)} --log-uid"
        case t.Nflog(group, prefix):
            return f"-j NFLOG --nflog-group {group} --nflog-prefix {quoted(prefix)}"
        case t.ForeignTarget(text) | t.NativeTarget(_, text):
            return text
        case _:
            assert_never(target)
