"""Whether the kernel takes the planned rules: what they need of it, and a rehearsal."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from capture.iptables.iptables import NATIVE, NFT
from capture.netlink import messages
from capture.preflight import modules, trial
from capture.preflight.facts import Fact, Here, worst
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from rules.netfilter.values import FILTER, MANGLE, NAT, OUTPUT, PREROUTING, RAW, Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.preflight.modules import Verdict
    from rules.plan.plan import Plan


NFT_MSG_GETCHAIN = 10 << 8 | 4
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_TYPE = 1, 3, 4, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
HOOKS = {PREROUTING: 0, OUTPUT: 3}
"""linux/netfilter.h."""
PRIORITIES = {(RAW, PREROUTING): -300, (RAW, OUTPUT): -300, (MANGLE, PREROUTING): -150, (MANGLE, OUTPUT): -150,
              (NAT, PREROUTING): -100, (NAT, OUTPUT): -100, (FILTER, OUTPUT): 0}  # fmt: skip
"""linux/netfilter_ipv4.h: where iptables hooks its tables in."""


def rules(here: Here) -> Iterator[Fact]:
    """Whether the kernel takes the rules that are planned: by trying them, else by what is known of it."""
    area = "rules"
    if not here.acts or here.not_entered:
        return
    if here.has_rules:
        yield rehearsed(here)
        yield from blocked_chains(here)
    if here.backend == NATIVE:
        return  # what nft needs of the kernel, only trying tells
    needed = modules.extensions(here.planned)
    for extension in (*modules.all_extensions(Family.V4),):
        pairs = [(e, rule) for e, rule in needed.items() if (e.kind, e.name) == (extension.kind, extension.name)]
        name = f"{extension.name} {extension.kind}"
        if not pairs:
            verdict, why = modules.of_extension(extension)
            yield Fact(area, name, why, verdict, "" if verdict == OK else "not needed", needed=False)
            continue
        judged = [(e, *judge(here, e)) for e, _ in pairs]
        verdict = worst([each[1] for each in judged])
        reasons = dict.fromkeys(why for _, each, why in judged if each == verdict)
        shown = f"{'; '.join(reasons)} ({', '.join(e.family.value for e, _ in pairs)})"
        remedy = ""
        if verdict != OK:
            aliases = " ".join(f"{modules.PREFIX[e.family]}_{e.name}" for e, each, _ in judged if each == verdict)
            remedy = f"`modprobe {aliases}` on the node; needed for: {pairs[0][1].why}"
        yield Fact(area, name, shown, verdict, remedy, any(here.must_have(e.family) for e, _ in pairs))


def judge(here: Here, extension: modules.Extension) -> tuple[Verdict, str]:
    if here.rehearsal and extension.family in here.rehearsal.families:
        return OK, "proved by the rehearsal"
    return modules.of_extension(extension)


def rehearsed(here: Here) -> Fact:
    area, name = "rules", "rehearsal"
    done = here.rehearsal
    if done is None:
        why = "not asked for" if here.choice else "not tried: the backend is not known"
        remedy = "leave out --no-rehearsal" if here.choice else "see the backend"
        return Fact(area, name, why, UNKNOWN, remedy)
    if done.outcome == trial.NOT_TRIED:
        remedy = "run `capture check` with CAP_SYS_ADMIN on this node to prove that the kernel takes the rules"
        return Fact(area, name, f"not tried: {done.why}", UNKNOWN, remedy)
    if done.outcome == trial.REFUSED:
        return Fact(area, name, done.why, MISSING, done.hint or "see what the kernel lacks")
    families = " and ".join(family.value for family in done.families)
    value = f"the {families} rules work in a namespace of their own, with {here.backend}"
    if done.ipv6_refused:
        return Fact(area, name, f"{value}; IPv6: {done.ipv6_refused}", WARN, "a run leaves IPv6 out, with a warning")
    return Fact(area, name, value, OK)


def blocked_chains(here: Here) -> Iterator[Fact]:
    """Chains of nf_tables with the names of built-in ones that are something else: iptables-nft cannot use them."""
    if here.backend != NFT or here.nft_error:
        return
    try:
        chains = list(messages.dump(messages.NETLINK_NETFILTER, NFT_MSG_GETCHAIN, bytes(4)))
    except OSError as error:
        remedy = "see `nft list chains`"
        yield Fact("rules", "built-in chains", f"cannot be read: {error.strerror}", UNKNOWN, remedy)
        return
    in_the_way = []
    for message in chains:
        family = messages.FAMILIES.get(message[0])
        read = messages.attributes(message[4:])
        table, chain = (messages.text(read.get(key, b"")) for key in (NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME))
        if family and hooked(here.planned, family, table, chain) and not is_built_in(read, table, chain):
            in_the_way.append((family, f"{'ip' if family is Family.V4 else 'ip6'} {table} {chain}"))
    shown = ", ".join(name for _, name in in_the_way)
    if not shown:
        yield Fact("rules", "built-in chains", "free for iptables-nft", OK)
        return
    prevents = any(here.must_have(family) for family, _ in in_the_way)
    remedy = "another program made a chain of that name with nft; `nft list ruleset` shows it: remove or rename it"
    value = f"of another type, hook or priority than that of iptables: {shown}"
    yield Fact("rules", "built-in chains", value, MISSING if prevents else WARN, remedy)


def hooked(planned: Plan, family: Family, table: str, chain: str) -> bool:
    """Whether the plan has rules in this built-in chain."""
    return any(
        block.chain == chain and each.is_built_in(chain)
        for ruleset in planned.rulesets
        if ruleset.family is family
        for each in ruleset.tables
        if each.table == table
        for block in each.blocks
        if block.rules
    )


def is_built_in(read: dict[int, bytes], table: str, chain: str) -> bool:
    """Whether a chain of nf_tables is the one that iptables-nft would make."""
    kind = messages.text(read.get(NFTA_CHAIN_TYPE, b""))
    hook = messages.attributes(read.get(NFTA_CHAIN_HOOK, b""))
    if NFTA_HOOK_HOOKNUM not in hook or NFTA_HOOK_PRIORITY not in hook:
        return False
    number = int.from_bytes(hook[NFTA_HOOK_HOOKNUM], "big")
    (priority,) = struct.unpack("!i", hook[NFTA_HOOK_PRIORITY])
    wanted = "nat" if table == NAT else "route" if (table, chain) == (MANGLE, OUTPUT) else "filter"
    return (kind, number, priority) == (wanted, HOOKS.get(chain), PRIORITIES.get((table, chain)))
