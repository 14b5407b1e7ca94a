"""A second witness of legacy rules: libiptc, through python-iptables, beside the text of iptables-legacy-save.

What we know of live rules is one program's text, read by our own parser. libiptc reads the kernel's tables itself, and
python-iptables decodes each match and target with the extension's own code, so where both agree neither is mistaken.
It sees the legacy backend only: of nf_tables it shows empty chains, without an error.

python-iptables keeps the state of a family in the process and mixes families up, so each family is read by a child of
its own: `python -m capture.inspect.libiptc ipv4`. A child reads only tables that exist, for asking for another one
makes it.
"""

from __future__ import annotations

import json
import os
import sys
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from capture.errors import BackendUnusable, LiveStateUnreadable
from capture.iptables.iptables import LEGACY, OUR_TABLES
from capture.kernel.process import LEGACY_TABLES, read_words, run
from capture.kernel.rights import legacy_unseen_hint
from rules.addresses import ip_network
from rules.iptables import reading
from rules.iptables.writing import rule_text
from rules.meaning.spoken import conditions
from rules.netfilter.matches import Foreign
from rules.netfilter.rulesets import Block, TableRules
from rules.netfilter.targets import ForeignTarget
from rules.netfilter.values import Family
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.host.live import Live
    from rules.netfilter.rulesets import Rule

NOT_INSTALLED, UNREADABLE = 3, 4
"""Exit statuses of a child."""
ARGUMENTS = {"ipv4": Family.V4, "ipv6": Family.V6}
ANY_PROTOCOL = frozenset({"ip", "all", "0"})


class Difference(Value):
    """One thing on which the two witnesses disagree."""

    family: Family
    table: str
    chain: str
    """Empty if it is about the table."""
    what: str
    """`rule 3`, `policy`, `chain` or `table`."""
    text: str
    """What iptables-legacy-save says; empty if it knows of none."""
    libiptc: str
    """What libiptc says; empty if it knows of none."""

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.family.value, self.table, self.chain, self.what)))
        return f"{where}: iptables-legacy-save says {self.text or 'nothing'}; libiptc says {self.libiptc or 'nothing'}"


def libiptc_differences(live: Live, backend: str) -> list[Difference]:
    """Where libiptc and the text in `live` disagree on the tables that could hold ours; nothing if they agree.

    For the namespace we are in, and best under `netns.locked`, lest a run comes in between the two readings. Raises
    BackendUnusable for another backend than legacy or without python-iptables, LiveStateUnreadable if it cannot read.
    """
    if backend != LEGACY:
        raise BackendUnusable(
            f"libiptc sees the legacy backend only, and the rules are in {backend}: it would call every chain empty",
            hint="leave the second witness out, or use --force-iptables-binary=legacy",
        )
    if not live.legacy_is_known:
        raise BackendUnusable(
            f"only uid 0 may read {LEGACY_TABLES[Family.V4]}, without which libiptc would make tables by asking",
            hint=legacy_unseen_hint(),
        )
    found: list[Difference] = []
    for name, family in ARGUMENTS.items():
        saved = live.legacy.get(family)
        printed = [table for table in saved.ruleset.tables if table.table in OUR_TABLES] if saved else []
        found += differences(family, printed, tables_of(name))
    return found


def tables_of(name: str) -> list[TableRules]:
    """What a child of this family saw. Raises CaptureError if there is no answer."""
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    done = run(sys.executable, "-m", "capture.inspect.libiptc", name, environ=environ)
    if done.status == NOT_INSTALLED:
        raise BackendUnusable(
            f"python-iptables is not installed for {sys.executable}: {last_line(done.stderr)}",
            hint="pip install 'traffic-capture[iptc]', which takes a C compiler and Python's headers",
        )
    if done.status:
        how = f"was ended by signal {-done.status}" if done.status < 0 else f"ended with status {done.status}"
        raise LiveStateUnreadable(
            f"libiptc could not read the {ARGUMENTS[name].value} tables: the child that asked it {how}",
            details=[("it said", last_line(done.stderr) or "nothing")],
            hint="this takes CAP_NET_ADMIN and CAP_NET_RAW",
        )
    try:
        return [read_table(table, content) for table, content in json.loads(done.stdout).items()]
    except (ValueError, KeyError, IndexError) as error:
        raise LiveStateUnreadable(f"libiptc's view cannot be understood: {error!r}") from error


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def read_table(table: str, content: dict[str, Any]) -> TableRules:
    """A table from a child's JSON, each rule read from its words as those of the text are."""
    chains: dict[str, list[list[str]]] = content["chains"]
    policies: dict[str, str] = content["policies"]
    declared = dict.fromkeys(name for name in chains if name not in policies)
    blocks = (
        Block(chain, tuple(reading.rule(words, declared) for words in rules))
        for chain, rules in chains.items()
        if rules
    )
    return TableRules(table, tuple(declared), tuple(blocks), tuple(policies.items()))


# --- comparing ----------------------------------------------------------------------------------------------


def differences(family: Family, text: Sequence[TableRules], libiptc: Sequence[TableRules]) -> list[Difference]:
    """Chain by chain, rule by rule, in order: what one witness says and the other does not."""
    found = []
    by_name = [{table.table: table for table in tables} for tables in (text, libiptc)]
    for name in dict.fromkeys((*by_name[0], *by_name[1])):
        one, other = (tables.get(name) for tables in by_name)
        if one and other:
            found += list(in_table(family, one, other))
        else:
            found.append(Difference(family, name, "", "table", name if one else "", name if other else ""))
    return found


def in_table(family: Family, text: TableRules, libiptc: TableRules) -> Iterator[Difference]:
    table = text.table
    policies = [dict(each.policies) for each in (text, libiptc)]
    for chain in dict.fromkeys((*policies[0], *policies[1])):
        printed, seen = (policy.get(chain, "") for policy in policies)
        if printed != seen:
            yield Difference(family, table, chain, "policy", printed, seen)
    declared = [set(each.declared) for each in (text, libiptc)]
    for chain in sorted(declared[0] ^ declared[1]):
        yield Difference(family, table, chain, "chain", *(chain if chain in names else "" for names in declared))
    chains = [each.chains() for each in (text, libiptc)]
    for chain in dict.fromkeys((*chains[0], *chains[1])):
        yield from in_chain(family, table, chain, *(each.get(chain, ()) for each in chains))


def in_chain(
    family: Family, table: str, chain: str, text: Sequence[Rule], libiptc: Sequence[Rule]
) -> Iterator[Difference]:
    """The rules that only one of them has, or has elsewhere, by their positions in it."""
    compared = SequenceMatcher(None, [*map(meaning, text)], [*map(meaning, libiptc)], autojunk=False)
    for kind, i, i_end, j, j_end in compared.get_opcodes():
        if kind == "equal":
            continue
        for step in range(max(i_end - i, j_end - j)):
            printed = text[i + step] if i + step < i_end else None
            seen = libiptc[j + step] if j + step < j_end else None
            position = (i if printed else j) + step + 1
            words = [rule_text(rule) or "a rule without a target" if rule else "" for rule in (printed, seen)]
            yield Difference(family, table, chain, f"rule {position}", *words)


def meaning(rule: Rule) -> tuple[object, ...]:
    """What two spellings of one rule share (`-p 47`, `-p gre`); of what we do not speak, only the names."""
    matches = [
        f"foreign {module(match)}" if isinstance(match, Foreign) else conditions(match) for match in rule.matches
    ]
    target = rule.target
    name = " ".join(target.text.split()[:2]) if isinstance(target, ForeignTarget) else target
    return frozenset((match, matches.count(match)) for match in matches), name


def module(match: Foreign) -> str:
    """`-m comment --comment …` is of the module comment; `! -f` is the option -f."""
    words = match.text.removeprefix("! ").split()
    return words[1] if words[:1] == ["-m"] and len(words) > 1 else words[0]


# --- the child ----------------------------------------------------------------------------------------------


def main() -> None:
    """Print what libiptc sees of one family's tables as JSON."""
    family = ARGUMENTS[sys.argv[1]]
    try:
        import iptc
    except (ImportError, OSError) as error:
        # OSError: a library that it is to load is not there.
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    there = read_words(LEGACY_TABLES[family]) or ()
    kind = iptc.Table if family is Family.V4 else iptc.Table6
    # To tell a jump from an extension it opens every table that it thinks is there, and finds out by opening, which
    # makes them: a rule's target would be enough to leave the namespace with five tables. So it is told.
    kind.existing_table_names.update({name: name in there for name in kind.ALL})
    try:
        answer = {name: table_told(kind(name, autocommit=False)) for name in there if name in OUR_TABLES}
    except iptc.IPTCError as error:
        print(error, file=sys.stderr)
        sys.exit(UNREADABLE)
    print(json.dumps(answer), flush=True)
    # Without what python-iptables does at its end: nothing was changed, and nothing is to be committed.
    os._exit(0)


def table_told(table: Any) -> dict[str, Any]:
    policies, chains = {}, {}
    for chain in table.chains:
        policy = chain.get_policy()
        if policy is not None:
            policies[chain.name] = policy.name
        chains[chain.name] = [list(words_of(rule)) for rule in chain.rules]
    return {"policies": policies, "chains": chains}


def words_of(rule: Any) -> Iterator[str]:
    """A rule of python-iptables in the words of iptables-save."""
    for option, value in (("-s", rule.src), ("-d", rule.dst)):
        bare = value.removeprefix("!")
        network = with_prefix_length(bare)
        if not network.endswith("/0"):
            yield from negated(value != bare, option, network)
    for option, value in (("-i", rule.in_interface), ("-o", rule.out_interface)):
        if value:
            yield from negated(value.startswith("!"), option, value.removeprefix("!"))
    protocol = rule.protocol.removeprefix("!")
    if protocol not in ANY_PROTOCOL:
        yield from negated(protocol != rule.protocol, "-p", protocol)
    if getattr(rule, "fragment", False):
        yield "-f"
    for match in rule.matches:
        yield from ("-m", match.name)
        yield from options(match)
    target = rule.target
    if target and target.name:
        yield from ("-g" if target.goto else "-j", target.name)
        yield from options(target)


def negated(negative: bool, *words: str) -> Iterator[str]:
    if negative:
        yield "!"
    yield from words


def with_prefix_length(network: str) -> str:
    """`10.0.0.0/255.0.0.0` as `10.0.0.0/8`; a mask that is no prefix length is kept."""
    try:
        return str(ip_network(network, strict=False))
    except ValueError:
        pass
    try:
        address, _, mask = network.partition("/")
        bits = bin(int.from_bytes(ip_network(mask).network_address.packed, "big"))[2:]
        return str(ip_network(f"{address}/{bits.count('1')}", strict=False)) if "01" not in bits else network
    except ValueError:
        return network


def options(extension: Any) -> Iterator[str]:
    """The options of a match or a target, with their values; `!` is a value of its own there."""
    for name, values in extension.get_all_parameters().items():
        given = list(values)
        if given[:1] == ["!"]:
            yield "!"
            del given[0]
        yield from (f"--{name}", *given)


if __name__ == "__main__":
    main()
