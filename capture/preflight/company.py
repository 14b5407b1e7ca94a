"""Who else is in the namespace: another mesh, the proxy, other runs, rules of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.errors import CaptureError
from capture.host import place
from capture.host.listening import heard, not_of_the_proxy
from capture.host.neighbours import findings_of_others
from capture.iptables.diagnosis import other_tables
from capture.iptables.iptables import LEGACY, NFT
from capture.kernel import locks, netns
from capture.kernel.loopback import lo_is_up
from capture.netlink.early import early
from capture.netlink.nftables import belongs
from capture.preflight.facts import Fact, Here, listed
from capture.preflight.modules import MISSING, OK, UNKNOWN, WARN
from rules.live.drift import sentence_of
from rules.netfilter.values import Family
from rules.ours.meshes import REMEDY, chains_of_other_meshes, native_tables, tables_by_mesh
from rules.plan.names import NATIVE_TABLE
from rules.plan.plan import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.host.live import Live


def namespace(here: Here) -> Iterator[Fact]:
    """Which network namespace it is, whose, and who else is at work in it."""
    area = "namespace"
    named = here.settings.network_namespace
    if here.not_entered:
        yield Fact(area, "--network-namespace", here.not_entered.what, MISSING, here.not_entered.hint)
        return
    if named:
        yield Fact(area, "--network-namespace", f"{netns.path_of(named)} was entered", OK)
    yield from lo(here)
    if here.live:
        signs = place.signs_of_a_node(here.live.chains(), here.live.table_names())
        refused = bool(signs) and here.planned is not NOTHING and not here.settings.allow_host
        remedy = "a pod with hostNetwork: true must not run this; --allow-host does it all the same" if signs else ""
        verdict = MISSING if refused else WARN if signs else OK
        yield Fact(area, "Kubernetes node", listed(signs) or "no sign of one", verdict, remedy)
        yield from others(here, here.live)
    else:
        yield Fact(area, "Kubernetes node", "not known without the rules", UNKNOWN, "see what the namespace holds")
    as_proxy = list(taken_for_the_proxy(here))
    remedy = "run it as another user and group: it is taken for the proxy and never captured" if as_proxy else ""
    yield Fact(area, "processes as the proxy", ", ".join(as_proxy) or "none", WARN if as_proxy else OK, remedy)
    ports = [f"{port} ({how})" for port, how in here.facts.ssh_ports]
    found = {port for port, _ in here.facts.ssh_ports}
    kept = here.planned.intent.ssh_ports if here.planned.intent else ()
    ports += [f"{each} (a former run left it alone)" for each in kept if each.first not in found]
    left = bool(ports) and bool(here.resolved.intent.inbound_ports) and not here.settings.capture_ssh
    remedy = "--capture-ssh captures it all the same" if left else ""
    yield Fact(area, "SSH ports", ", ".join(ports) or "none", WARN if left else OK, remedy)
    yield another_run()


def taken_for_the_proxy(here: Here) -> Iterator[str]:
    """The processes that run as the proxy's user or group and are not of it."""
    intent, processes = here.resolved.intent, here.facts.processes
    by_uid = [each for each in processes if each.uid and each.uid in intent.proxy_uid]
    by_gid = [each for each in processes if each.gid and each.gid in intent.proxy_gid and each not in by_uid]
    for each in not_of_the_proxy(by_uid + by_gid, processes, (intent.proxy_port, intent.inbound_capture_port)):
        who = f"uid {each.uid}" if each in by_uid else f"gid {each.gid}"
        yield f"pid {each.pid} ({each.name}, {who})"


def proxy(here: Here) -> Iterator[Fact]:
    """Who listens where the rules will send things. That nobody does yet is no fault: the proxy comes later."""
    if here.not_entered or here.planned is NOTHING:
        return
    found = heard(here.planned.rulesets, here.facts)
    if found.unseen:
        yield Fact("proxy", "listeners", found.unseen, UNKNOWN, "allow AF_NETLINK sockets", needed=False)
    for each in found.proxy:
        what, _, who = str(each).partition(": ")
        yield Fact("proxy", what, who, WARN if each.problems else OK, "; ".join(each.problems))
    for loop in found.resolvers:
        who, _, remedy = loop.rpartition("; ")
        yield Fact("proxy", "DNS servers", who, WARN, remedy)


def lo(here: Here) -> Iterator[Fact]:
    up = lo_is_up()
    if up is None:
        yield Fact("namespace", "lo", "cannot be asked", UNKNOWN, "see `ip link show lo`")
    elif up:
        yield Fact("namespace", "lo", "up", OK)
    else:
        # Of the two families only IPv6 refuses a local route while lo is down.
        fails = any(routing.family is Family.V6 for routing in here.planned.routing)
        remedy = "`ip link set lo up`: " + (
            "the IPv6 route of TPROXY needs it" if fails else "captured traffic needs it"
        )
        yield Fact("namespace", "lo", "down", MISSING if fails else WARN, remedy)


def others(here: Here, live: Live) -> Iterator[Fact]:
    """Chains of other captures, and rules in both backends."""
    found: dict[str, list[str]] = {}
    for saved in (*live.nft.values(), *live.legacy.values()):
        for mesh, _, chain in chains_of_other_meshes(saved.ruleset):
            found.setdefault(mesh, []).append(chain)
    refused = here.planned is not NOTHING and not here.settings.take_over
    for mesh, chains in found.items():
        yield Fact("namespace", f"chains of {mesh}", listed(chains), MISSING if refused else WARN, REMEDY)
    for mesh, tables in tables_by_mesh(live.table_names()).items():
        yield Fact("namespace", f"tables of {mesh}", listed(tables), MISSING if refused else WARN, REMEDY)
    for table, port in in_the_way(here, live):
        yield Fact("namespace", "table of one program", belongs(table, port), MISSING, f"end it{other_tables(table)}")
    if live.holds_rules(NFT) and live.holds_rules(LEGACY):
        remedy = "both act on traffic: keep rules in one of them"
        yield Fact("namespace", "backends that hold rules", "nft and legacy", WARN, remedy)
    for each in findings_of_others(live, here.planned.rulesets, here.planned.routing, here.backend):
        yield Fact("namespace", each.kind.value, f"{each.place}: {sentence_of(each)}", WARN, each.rerun)
    for program in early():
        remedy = "`capture trace` and `verify` know nothing of what it lets through"
        yield Fact("namespace", program.kind, str(program), WARN, remedy)


def in_the_way(here: Here, live: Live) -> Iterator[tuple[str, int]]:
    """The tables that a run would change, take away or take over, and one program alone may."""
    if here.planned is NOTHING:
        return
    planned = live.owned_in_the_way(here.backend, here.planned)
    for table, port in live.owned.items():
        name = table.partition(" ")[2]
        is_taken_over = here.settings.take_over and native_tables([name])
        if (table, port) == planned or name == NATIVE_TABLE or is_taken_over:
            yield table, port


def another_run() -> Fact:
    try:
        holders = locks.runs_at_work()
    except (CaptureError, OSError) as error:
        return Fact("namespace", "other runs", f"not known: {error}", UNKNOWN, "mount /proc")
    value = f"one is at work: {locks.in_words(holders)}" if holders else "none at work"
    remedy = f"a run waits for it, up to {locks.LONGEST_WAIT} s" if holders else ""
    return Fact("namespace", "other runs", value, WARN if holders else OK, remedy)
