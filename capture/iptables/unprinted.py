"""What iptables-nft-save leaves out: tables that it refuses to print, and parts of rules that it does not mention.

It prints no table in which a single rule has a native statement (`dnat`, `ct state` …), ends in the middle at one that
it does not know at all (`meta skuid`), and is silent about native sets and about base chains that are not iptables'.
What we need for our own part is less: which chains there are, what is in ours, and where others lead to them. That much
the kernel tells itself, and iptables prints chains one by one that it does not print together.
"""

from __future__ import annotations

from capture.iptables.native import handle_in, natives
from capture.iptables.nft_words import counted, handle, led_to, left_out, marked, text_of
from capture.kernel.process import run
from capture.netlink.nftables import ACCEPT, HOOKS, built_in
from rules.iptables import reading
from rules.iptables.quoting import MARKER, command, lines, tokens
from rules.netfilter.hooks import MISNAMED
from rules.netfilter.rulesets import Block
from rules.netfilter.targets import Jump
from rules.netfilter.values import BUILT_IN
from rules.plan.names import OURS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from capture.iptables.iptables import Iptables
    from capture.iptables.native import Native
    from capture.iptables.nft_words import Attributes
    from capture.netlink.nftables import NftChain
    from rules.netfilter.rulesets import Rule, Ruleset, TableRules
    from rules.netfilter.values import Family

    Rules = Mapping[tuple[str, str], Sequence[Attributes]]


def is_printed(table: str, name: str, chain: NftChain) -> bool:
    """Whether iptables knows the chain: a user-defined one, or a built-in one as it would make it."""
    if chain.base is None:
        return True
    return name in BUILT_IN.get(table, ()) and chain.base[:-1] == built_in(table, name)


def printed(
    tool: Iptables, table: str, chains: Mapping[str, NftChain], rules: Rules, *, counters: bool
) -> Iterator[str]:
    """The lines of a table as iptables-save would print it, if it had words for all that is in it."""
    yield f"*{table}"
    known = {name: chain for name, chain in chains.items() if is_printed(table, name, chain)}
    for name in sorted(BUILT_IN[table], key=HOOKS.__getitem__):
        base = known[name].base if name in known else None
        yield f":{name} {'ACCEPT' if base is None or base[-1] == ACCEPT else 'DROP'} [0:0]"
    yield from (f":{name} - [0:0]" for name, chain in known.items() if chain.base is None)
    for name in known:
        there = rules.get((table, name), ())
        texts = listed(tool, table, name, there) if name in OURS[table] or name in BUILT_IN[table] else None
        for at, rule in enumerate(there):
            text = texts[at] if texts else text_of(rule, tool.family)
            yield f"{counted(rule) if counters else ''}-A {name} {text}".rstrip()
    yield "COMMIT"


def listed(tool: Iptables, table: str, chain: str, rules: Sequence[Attributes]) -> list[str] | None:
    """The rules of a chain as iptables prints them alone; None if it does not. Raises OSError."""
    done = run(tool.command(""), "-t", table, "-S", chain, environ=tool.environ())
    texts = [command(line)[2] for _, line in lines(done.stdout) if line.startswith("-A ")]
    if done.status or len(texts) != len(rules):
        return None
    return [with_the_rest(tool.family, rule, text) for rule, text in zip(rules, texts, strict=True)]


def with_the_rest(family: Family, rule: Attributes, text: str) -> str:
    """The text that iptables prints of a rule, with what it leaves out."""
    rest = "" if text.startswith(MARKER) else left_out(rule, family)
    return marked(rule, f"{rest} {text}") if rest else text


def completed(family: Family, table: TableRules, rules: Rules) -> TableRules:
    """A printed table with what was left out: parts of rules, and other base chains with rules that lead to ours."""
    declared = dict.fromkeys(table.declared)

    def read(text: str) -> Rule:
        return reading.rule(tokens(reading.unmarked(text)), declared, text)

    blocks = []
    seen: dict[str, int] = {}
    for block in table.blocks:
        at = seen.get(block.chain, 0)
        seen[block.chain] = at + len(block.rules)
        in_kernel = rules.get((table.table, block.chain), ())[at : at + len(block.rules)]
        texts = [with_the_rest(family, its, rule.text) for rule, its in zip(block.rules, in_kernel, strict=True)]
        blocks.append(block.but(rules=tuple(map(read, texts))))
    for (name, chain), there in rules.items():
        if name == table.table and chain not in seen and any(led_to(rule) in OURS[name] for rule in there):
            label = chain + MISNAMED if chain in BUILT_IN[name] else chain
            blocks.append(Block(label, tuple(read(text_of(rule, family)) for rule in there)))
    return table.but(blocks=tuple(blocks))


def native_among_ours(family: Family, ruleset: Ruleset, rules: Rules) -> dict[tuple[str, str], Native]:
    """The marked rules that a change of ours may remove, as the kernel tells them. Raises OSError."""
    found: dict[tuple[str, str], Native] = {}
    for table in ruleset.tables:
        ours = OURS[table.table]
        marked_here = {
            handle_in(rule.text)
            for block in table.blocks
            for rule in block.rules
            if rule.text.startswith(MARKER)
            and (block.chain in ours or (isinstance(rule.target, Jump) and rule.target.chain in ours))
        }
        of_table = (rule for (name, _), there in rules.items() if name == table.table for rule in there)
        wanted = {str(handle(rule)): dict(rule) for rule in of_table if str(handle(rule)) in marked_here}
        found |= natives(family, table.table, wanted) if wanted else {}
    return found
