"""From the text of iptables-save(8), or of our own restore input, to values: the inverse of `render`.

What we do not speak is kept to the letter as `Foreign` or `ForeignTarget`, so that the rules of others can be
compared, shown and deleted by their own words, and are never mistaken for ours.
"""

from __future__ import annotations

from rules.addresses import ip_address
from rules.iptables.printed import read_from
from rules.iptables.quoting import FREE_TEXT, MARKER, Lines, command, tokens, unquoted
from rules.netfilter import matches as m
from rules.netfilter import targets as t
from rules.netfilter.rulesets import Block, Rule, TableRules
from rules.netfilter.values import Ports, network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from typing import Any

    from rules.iptables.printed import Expected
    from rules.netfilter.matches import Match, Plain
    from rules.netfilter.targets import Target
    from rules.netfilter.values import Network


class NotSaveText(ValueError):
    """The text is not what iptables-save prints; says the line."""


def tables(text: str, expected: Expected | None = None) -> tuple[TableRules, ...]:
    """The tables in this text, in its order. Raises NotSaveText for what iptables-save would not print."""
    found: list[TableRules] = []
    name = ""
    declared: dict[str, None] = {}
    policies: list[tuple[str, str]] = []
    blocks: list[Block] = []
    chain, rules = "", list[Rule]()
    reader = Lines(text)
    while (line := reader.next()) is not None:
        number = reader.number
        if not line or line[0] == "#":
            continue
        if line[0] == "*" and not name:
            name, declared, policies, blocks, chain, rules = line[1:].strip(), {}, [], [], "", []
        elif not name or line[0] == "*":
            raise NotSaveText(f"line {number} stands {'inside' if name else 'outside'} of a table: {line!r}")
        elif line == "COMMIT":
            if rules:
                blocks.append(Block(chain, tuple(rules)))
            found.append(TableRules(name, tuple(declared), tuple(blocks), tuple(policies)))
            name = ""
        elif line[0] == ":":
            declaration = line[1:].split(" ")
            if len(declaration) < 2 or not declaration[0]:
                raise NotSaveText(f"line {number} declares a chain without its policy: {line!r}")
            if declaration[1] == "-":
                declared[declaration[0]] = None
            else:
                policies.append((declaration[0], declaration[1]))
        else:
            verb, of, words = command(line)
            if not of or verb not in ("-A", "-N"):
                raise NotSaveText(f"line {number} is not a rule: {line!r}")
            if verb == "-N":
                declared[of] = None
                continue
            if of != chain:
                if rules:
                    blocks.append(Block(chain, tuple(rules)))
                chain, rules = of, []
                sight = known_at_sight(reader, name, of, declared, expected) if expected else None
                if sight:
                    blocks.append(Block(of, sight))
                    chain = ""
                    continue
            listed = expected and of in expected.ours.get(name, ()) and reader.listed(of, words)
            if listed:
                chains = frozenset(declared)
                blocks.append(Block(chain, long_list(rules, reader.text, listed, chains)))
                rules = []
                continue
            try:
                rules.append(known(words, declared))
            except IndexError:
                raise NotSaveText(f"line {number} ends too early: {line!r}") from None
    if name:
        raise NotSaveText(f"the table {name} is not committed: the text was cut off")
    return tuple(found)


def known_at_sight(
    reader: Lines, table: str, chain: str, declared: Container[str], expected: Expected
) -> Sequence[Rule] | None:
    """The rules of this chain, whose first line was read, if they and no others are as expected."""
    rules = expected.chains(table).get(chain)
    # Where other chains are, the same words may mean another thing.
    as_planned = all(name in declared for name in expected.declared(table)) and not any(
        map(declared.__contains__, TARGETS)
    )
    if not (rules and as_planned):
        return None
    text, found = read_from(chain, rules)
    return found if reader.comes(text, (f"-A {chain} ", f"-A {chain}\n")) else None


def known(text: str, chains: Container[str]) -> Rule:
    """The rule of these words. One that was read before is the same value, which costs nothing to compare."""
    found, alone = _known.get(text, (None, ""))
    if found is None or (alone in chains) is not isinstance(found.target, t.Jump):
        found = rule(tokens(unmarked(text)), chains, text)
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        # What leads to a chain here may name a target where there is no chain of that name.
        last = text.rpartition("-j ")[2]
        _known[text] = found, "" if " " in last else last
    return found


def long_list(before: list[Rule], text: str, listed: tuple[int, int, int], chains: frozenset[str]) -> Sequence[Rule]:
    """Rules that were read, and behind them those of a list, whose lines are read when they are asked for."""
    from rules.lists.long import Joined, Lines, Made

    def read_line(line: str) -> Rule:
        words = command(line)[2]
        return rule(tokens(words), chains, words)

    return Joined((tuple(before), Made(Lines(text, *listed), read_line)))


MOST_KNOWN = 100_000
_known: dict[str, tuple[Rule, str]] = {}
"""Rules by their words, and what stands alone behind `-j`."""


def unmarked(text: str) -> str:
    """The rule's words without what says that iptables-save would not print them: see `capture.iptables.nft_words`."""
    return text.partition("]")[2] if text.startswith(MARKER) else text


def rule(words: list[str], chains: Container[str], text: str = "") -> Rule:
    """One rule from its words behind `-A CHAIN`, and how they read; `chains` are those that `-j` can name."""
    matches: list[Match] = []
    module, of_module = "", 0
    at = 0
    while at < len(words):
        start = at
        negated = words[at] == "!"
        at += negated
        word = words[at]
        if word in ("-j", "-g"):
            return Rule(tuple(matches), target(words[start:], chains), text=text)
        if word == "-m":
            module = words[at + 1]
            of_module = end_of_module(words, at + 2)
            at += 2
            if module not in SPOKEN_MODULES or not REFINING.isdisjoint(words[at:of_module]):
                matches.append(m.Foreign(" ".join(words[start:of_module])))
                at = of_module
            continue
        if start >= of_module:
            module = ""
        reader = OPTIONS.get((module if word.startswith("--") else "", word))
        known = reader and at + 1 < len(words) and reader(words[at + 1])
        if known:
            matches.append(m.Not(known) if negated else known)
            at += 2
        else:
            end = end_of_option(words, at + 1)
            named = ["-m", module] if word.startswith("--") and module else []
            matches.append(m.Foreign(" ".join(named + words[start:end])))
            at = end
    return Rule(tuple(matches), t.ForeignTarget(""), text=text)


GENERAL = frozenset({"-m", "-j", "-g", "-p", "-s", "-d", "-i", "-o", "-f"})
"""The options of no module (iptables(8), PARAMETERS)."""
REFINING = frozenset({"--ctproto", "--limit-burst", "--suppl-groups"})
"""Options that change what another one of their module means, so that none of them can be understood alone. `--ctproto`
is not asked of a packet without a connection, where `--ctstate` stands beside it and holds (xt_conntrack.c)."""


def end_of_module(words: list[str], at: int) -> int:
    """Where the options of a module end: at the next module, the target, or an option of no module."""
    while at < len(words):
        if words[at] in GENERAL or (words[at] == "!" and at + 1 < len(words) and words[at + 1] in GENERAL):
            break
        at += 2 if words[at] in FREE_TEXT else 1
    return min(at, len(words))


def end_of_option(words: list[str], at: int) -> int:
    """Where the values of an option that we do not speak end: at the next option or negation."""
    while at < len(words) and words[at][0] != "-" and words[at] != "!":
        at += 1
    return at


def target(words: list[str], chains: Container[str]) -> Target:
    """The target from its words; what has an option that we do not speak is foreign as a whole."""
    if len(words) < 2 or words[0] != "-j":
        return t.ForeignTarget(" ".join(words))
    name, options = words[1], words[2:]
    if not options and name in chains:
        return t.Jump(name)
    reader = TARGETS.get(name)
    try:
        read = reader and reader(*options_and_values(options))
    except (ValueError, KeyError, TypeError):
        read = None
    return read or t.ForeignTarget(" ".join(words))


def options_and_values(words: list[str]) -> tuple[dict[str, str], ...]:
    """The options of a target with their values, as one dict; none at all if there are no options."""
    if not words:
        return ()
    options: dict[str, str] = {}
    option = ""
    for word in words:
        if word.startswith("--") and option not in FREE_TEXT:
            option = word
            options[option] = ""
        elif not option or options[option]:
            raise ValueError(f"{word} is the value of no option")
        else:
            options[option] = unquoted(word)
            option = "" if option in FREE_TEXT else option
    return (options,)


def only(options: dict[str, str], *names: str) -> tuple[str, ...]:
    """The values of exactly these options. Raises KeyError if there are others, or one is missing."""
    if set(options) != set(names):
        raise KeyError(*options)
    return tuple(options[name] for name in names)


def redirect(options: dict[str, str]) -> t.Redirect:
    (port,) = only(options, "--to-ports")
    return t.Redirect(int(port))


def dnat(options: dict[str, str]) -> t.Dnat:
    (destination,) = only(options, "--to-destination")
    host, _, port = destination.rpartition(":")
    return t.Dnat(ip_address(host.strip("[]")), int(port))


def tproxy(options: dict[str, str]) -> t.Tproxy:
    """The kernel adds the address on which the listener is looked up; unspecified is what leaving it out means."""
    address = options.pop("--on-ip", "")
    if address and not ip_address(address).is_unspecified:
        raise ValueError("a listener on one address")
    port, mark = only(options, "--on-port", "--tproxy-mark")
    return t.Tproxy(int(port), whole(mark))


def set_mark(options: dict[str, str]) -> t.SetMark:
    (mark,) = only(options, "--set-xmark")
    return t.SetMark(whole(mark))


def connmark(options: dict[str, str]) -> t.SaveMark | t.RestoreMark:
    if {options.pop("--nfmask", FULL), options.pop("--ctmask", FULL)} != {FULL}:
        raise ValueError("a part of the mark")
    if "--save-mark" in options:
        only(options, "--save-mark")
        return t.SaveMark()
    only(options, "--restore-mark")
    return t.RestoreMark()


def zone(options: dict[str, str]) -> t.Zone:
    (number,) = only(options, "--zone")
    return t.Zone(int(number))


def reject(options: dict[str, str]) -> t.Reject:
    (answer,) = only(options, "--reject-with")
    return t.Reject(answer)


def log(options: dict[str, str]) -> t.Log:
    prefix, _ = only(options, "--log-prefix", "--log-uid")
    return t.Log(prefix)


def nflog(options: dict[str, str]) -> t.Nflog:
    group, prefix = only(options, "--nflog-group", "--nflog-prefix")
    return t.Nflog(int(group), prefix)


FULL = "0xffffffff"


def whole(text: str) -> int:
    """A mark that is compared or set in all of its bits. Raises ValueError for one with another mask."""
    value, slash, mask = text.partition("/")
    if slash and int(mask, 0) != int(FULL, 0):
        raise ValueError(f"{text} is a part of a mark")
    return int(value, 0)


def marked(made: Callable[[int], Plain]) -> Callable[[str], Plain | None]:
    """A reader of a whole mark."""

    def read(text: str) -> Plain | None:
        try:
            return made(whole(text))
        except ValueError:
            return None

    return read


TARGETS: dict[str, Callable[..., Target]] = {
    "RETURN": t.Return,
    "ACCEPT": t.Accept,
    "DROP": t.Drop,
    "REDIRECT": redirect,
    "DNAT": dnat,
    "TPROXY": tproxy,
    "MARK": set_mark,
    "CONNMARK": connmark,
    "CT": zone,
    "REJECT": reject,
    "LOG": log,
    "NFLOG": nflog,
}
"""How the options of each target that we speak are read."""


def number(made: Callable[[int], Plain]) -> Callable[[str], Plain | None]:
    """A reader of one number; a range or a name is not spoken."""
    return lambda text: made(int(text)) if text.isascii() and text.isdigit() else None


def uids(text: str) -> Plain | None:
    first, dash, last = text.partition("-")
    if dash and first.isdigit() and last.isdigit() and int(first) < int(last):
        return m.OwnerUids(int(first), int(last))
    return number(m.OwnerUid)(text)


def network_match(made: Callable[[Network], Plain]) -> Callable[[str], Plain | None]:
    """A reader of a network; a mask that is no prefix length (`/255.0.0.255`) is not spoken."""

    def read(text: str) -> Plain | None:
        length = text.partition("/")[2]
        try:
            return made(network(text)) if length.isdigit() or not length else None
        except ValueError:
            return None

    return read


def ports(text: str) -> Ports | None:
    first, colon, last = text.partition(":")
    try:
        return Ports(int(first), int(last if colon else first))
    except ValueError:
        return None


def port_match(made: Callable[[Ports], Plain]) -> Callable[[str], Plain | None]:
    """A reader of a port or a range of ports."""

    def read(text: str) -> Plain | None:
        found = ports(text)
        return made(found) if found else None

    return read


def multiport_match(text: str) -> m.DPorts | None:
    ranges = tuple(filter(None, map(ports, text.split(","))))
    return m.DPorts(ranges) if len(ranges) == text.count(",") + 1 else None


def states(text: str) -> m.CtState:
    return m.CtState(frozenset(text.split(",")))


SPOKEN_MODULES = frozenset({"tcp", "udp", "multiport", "owner", "conntrack", "mark", "connmark", "limit"})

OPTIONS: dict[tuple[str, str], Callable[[str], Any]] = {
    ("", "-p"): m.Proto,
    ("", "-s"): network_match(m.Src),
    ("", "-d"): network_match(m.Dst),
    ("", "-i"): m.InIface,
    ("", "-o"): m.OutIface,
    # `-p tcp` loads the tcp match by itself: our text does not name it, the kernel's does.
    ("", "--dport"): port_match(m.DPort),
    ("", "--sport"): port_match(m.SPort),
    ("tcp", "--dport"): port_match(m.DPort),
    ("tcp", "--sport"): port_match(m.SPort),
    ("udp", "--dport"): port_match(m.DPort),
    ("udp", "--sport"): port_match(m.SPort),
    ("multiport", "--dports"): multiport_match,
    ("owner", "--uid-owner"): uids,
    ("owner", "--gid-owner"): number(m.OwnerGid),
    ("conntrack", "--ctstate"): states,
    ("mark", "--mark"): marked(m.Mark),
    ("connmark", "--mark"): marked(m.ConnMark),
    ("limit", "--limit"): m.Limit,
}
"""How each option that we speak is read, by its module."""
