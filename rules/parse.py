"""From the text of iptables-save(8), or of our own restore input, to values: the inverse of `render`.

What we do not speak is kept to the letter as `Foreign` or `ForeignTarget`, so that the rules of others can be
compared, shown and deleted by their own words, and are never mistaken for ours.
"""

from __future__ import annotations

from rules.values import (
    Accept,
    Block,
    CtState,
    DPort,
    DPorts,
    Drop,
    Dst,
    Foreign,
    ForeignTarget,
    InIface,
    Jump,
    Not,
    OutIface,
    OwnerGid,
    OwnerUid,
    Ports,
    Proto,
    Redirect,
    Return,
    Rule,
    Src,
    TableRules,
    network,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rules.values import Match, Plain, Target


class NotSaveText(ValueError):
    """The text is not what iptables-save prints; says the line."""


def tables(text: str) -> tuple[TableRules, ...]:
    """The tables in this text, in its order. Raises NotSaveText for what iptables-save would not print."""
    found: list[TableRules] = []
    name = ""
    declared: dict[str, None] = {}
    policies: list[tuple[str, str]] = []
    blocks: list[Block] = []
    chain, rules = "", list[Rule]()
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line[0] == "#":
            continue
        if line[0] == "*":
            name, declared, policies, blocks, chain, rules = line[1:].strip(), {}, [], [], "", []
        elif not name:
            raise NotSaveText(f"line {number} stands outside of a table: {line!r}")
        elif line == "COMMIT":
            if rules:
                blocks.append(Block(chain, tuple(rules)))
            found.append(TableRules(name, tuple(declared), tuple(blocks), tuple(policies)))
            name = ""
        elif line[0] == ":":
            declaration = line[1:].split()
            if len(declaration) < 2:
                raise NotSaveText(f"line {number} declares a chain without its policy: {line!r}")
            if declaration[1] == "-":
                declared[declaration[0]] = None
            else:
                policies.append((declaration[0], declaration[1]))
        else:
            words = tokens(line)
            if words[0][0] == "[":
                del words[0]
            if len(words) < 2 or words[0] not in ("-A", "-N"):
                raise NotSaveText(f"line {number} is not a rule: {line!r}")
            if words[0] == "-N":
                declared[words[1]] = None
                continue
            if words[1] != chain:
                if rules:
                    blocks.append(Block(chain, tuple(rules)))
                chain, rules = words[1], []
            rules.append(rule(words[2:], declared))
    if name:
        raise NotSaveText(f"the table {name} is not committed: the text was cut off")
    return tuple(found)


def tokens(line: str) -> list[str]:
    """The words of a line. A quoted word keeps its quotes, so that it cannot be taken for an option."""
    if '"' not in line:
        return line.split()
    words: list[str] = []
    word, quoted, escaped = "", False, False
    for char in line:
        if char.isspace() and not quoted:
            if word:
                words.append(word)
            word = ""
            continue
        word += char
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = quoted
        elif char == '"':
            quoted = not quoted
    return [*words, word] if word else words


def rule(words: list[str], chains: dict[str, None]) -> Rule:
    """One rule from its words behind `-A CHAIN`; `chains` are the user-defined ones that `-j` can name."""
    matches: list[Match] = []
    module = ""
    at = 0
    while at < len(words):
        start = at
        negated = words[at] == "!"
        at += negated
        word = words[at]
        if word in ("-j", "-g"):
            return Rule(tuple(matches), target(words[start:], chains))
        if word == "-m":
            module = words[at + 1]
            at += 2
            if module not in SPOKEN_MODULES:
                end = end_of_module(words, at)
                matches.append(Foreign(" ".join(words[start:end])))
                at = end
            continue
        reader = OPTIONS.get((module if word.startswith("--") else "", word))
        known = reader and at + 1 < len(words) and reader(words[at + 1])
        if known:
            matches.append(Not(known) if negated else known)
            at += 2
        else:
            end = end_of_option(words, at + 1)
            named = ["-m", module] if word.startswith("--") and module else []
            matches.append(Foreign(" ".join(named + words[start:end])))
            at = end
    return Rule(tuple(matches), ForeignTarget(""))


def end_of_module(words: list[str], at: int) -> int:
    """Where the options of a module that we do not speak end: at the next module or the target."""
    while at < len(words) and words[at] not in ("-m", "-j", "-g"):
        at += 1
    return at


def end_of_option(words: list[str], at: int) -> int:
    """Where the values of an option that we do not speak end: at the next option or negation."""
    while at < len(words) and words[at][0] != "-" and words[at] != "!":
        at += 1
    return at


def target(words: list[str], chains: dict[str, None]) -> Target:
    match words:
        case ["-j", "RETURN"]:
            return Return()
        case ["-j", "ACCEPT"]:
            return Accept()
        case ["-j", "DROP"]:
            return Drop()
        case ["-j", "REDIRECT", "--to-ports", port] if port.isascii() and port.isdigit():
            return Redirect(int(port))
        case ["-j", chain] if chain in chains:
            return Jump(chain)
        case _:
            return ForeignTarget(" ".join(words))


def number(made: Callable[[int], Plain]) -> Callable[[str], Plain | None]:
    """A reader of one number; a range or a name is not spoken."""
    return lambda text: made(int(text)) if text.isascii() and text.isdigit() else None


def ports(text: str) -> Ports | None:
    first, _, last = text.partition(":")
    try:
        return Ports(int(first), int(last or first))
    except ValueError:
        return None


def port_match(text: str) -> DPort | None:
    asked = ports(text)
    return DPort(asked) if asked else None


def multiport_match(text: str) -> DPorts | None:
    ranges = tuple(filter(None, map(ports, text.split(","))))
    return DPorts(ranges) if len(ranges) == text.count(",") + 1 else None


def states(text: str) -> CtState:
    return CtState(frozenset(text.split(",")))


SPOKEN_MODULES = frozenset({"tcp", "udp", "multiport", "owner", "conntrack"})

OPTIONS: dict[tuple[str, str], Callable[[str], Any]] = {
    ("", "-p"): Proto,
    ("", "-s"): lambda text: Src(network(text)),
    ("", "-d"): lambda text: Dst(network(text)),
    ("", "-i"): InIface,
    ("", "-o"): OutIface,
    # `-p tcp` loads the tcp match by itself: our text does not name it, the kernel's does.
    ("", "--dport"): port_match,
    ("tcp", "--dport"): port_match,
    ("udp", "--dport"): port_match,
    ("multiport", "--dports"): multiport_match,
    ("owner", "--uid-owner"): number(OwnerUid),
    ("owner", "--gid-owner"): number(OwnerGid),
    ("conntrack", "--ctstate"): states,
}
"""How each option that we speak is read, by its module."""
