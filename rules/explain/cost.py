"""What lists cost every new connection, and from which length on sets are cheaper: the figures of docs/dataplane.md."""

from __future__ import annotations

from rules.explain.finding import NOTE, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rules.plan.plan import Plan

CHEAPER_FROM = 100
"""Rules of one list. With as many, a new connection takes 1.3 times what conntrack and NAT alone take by iptables-nft,
1.1 times by iptables-legacy, and 1.1 natively, however long the list is."""
CHEAPER_THAN_LEGACY_FROM = 1000
"""The same beside iptables-legacy: the first length that was measured at which it is slower."""
FIGURES = (
    "beside conntrack and NAT without rules a new connection takes 1.1 times as long natively, for 100 entries as for "
    "50,000; with iptables-nft 1.3 times for 100, 2.5 for 1,000 and 13 for 10,000; with iptables-legacy 1.2 for 1,000 "
    "and 2.4 for 10,000"
)


def long_lists(planned: Plan) -> Iterator[Finding]:
    """The list with most rules in a chain, if they are many: the kernel asks one after the other."""
    most = 0
    longest = ""
    for ruleset in planned.rulesets:
        for table in ruleset.tables:
            for rules in table.chains().values():
                counts: dict[str, int] = {}
                for rule in rules:
                    counts[rule.setting] = counts.get(rule.setting, 0) + 1
                setting = max(counts, key=lambda each: counts[each], default="")
                if setting and counts[setting] > most:
                    most, longest = counts[setting], setting
    if most >= CHEAPER_FROM:
        text = (
            f"{{{longest}}} makes {most:,} rules, which every new connection is asked one after the other; sets of "
            f"nftables are cheaper than rules of iptables-nft from some {CHEAPER_FROM} on, and than those of "
            f"iptables-legacy from some {CHEAPER_THAN_LEGACY_FROM:,} on: {FIGURES}"
        )
        yield Finding(NOTE, "long-list", (longest,), text, "--native-nftables makes one rule with a set of it")
