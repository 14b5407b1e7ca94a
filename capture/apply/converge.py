"""Making a namespace hold what is planned, one run at a time, and where that is refused."""

from __future__ import annotations

from capture.apply import transaction
from capture.errors import KernelRefused, NotPutBack, OtherMesh, OthersFirst, WrongPlace
from capture.host.live import choose_backend, names_at_sight, read_live
from capture.host.place import signs_of_a_node
from capture.iptables.iptables import BACKENDS, Iptables, expect
from rules.netfilter.values import RAW, Family
from rules.ours.meshes import REMEDY, chains_of_other_meshes, native_tables
from rules.ours.recognition import holds_others
from rules.plan.names import RULE_PRIORITY
from rules.plan.plan import NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from capture.host.live import Live
    from capture.log import Log
    from capture.settings.declared import Settings
    from capture.steps.acts import Act
    from capture.steps.release import Release
    from rules.connections.flow import Flow
    from rules.netfilter.rulesets import Ruleset, TableRules
    from rules.plan.plan import Plan, Routing

ATTEMPTS = 3
"""How often we look and write, if others change the rules in between."""


def converge_locked(settings: Settings, planned: Plan, log: Log, read: Live | None = None) -> tuple[Flow, ...]:
    """Make the namespace hold what is planned, and nothing else of ours; other runs are kept out by the caller.

    He may have read what is there. The result are captured connections that were reset. A refusal is final, unless
    others changed the rules between our looking and our writing: then we look again.
    """
    if planned is not NOTHING and not settings.allow_host:
        refuse_a_node(*names_at_sight())  # its rules can be very many
    expect(planned.rulesets)
    attempt = 0
    while True:
        attempt += 1
        live = read if read and attempt == 1 else read_live()
        try:
            wanted = live.beside(planned)
            tell_of_ssh(planned, wanted, log)
            return converge_from(live, settings, wanted, log)
        except NotPutBack:
            raise
        except KernelRefused as refused:
            if attempt == ATTEMPTS or same_rules(live, read_live()):
                raise
            log.warn(f"others changed rules meanwhile, trying again ({attempt} of {ATTEMPTS - 1}): {refused.what}")


def tell_of_ssh(planned: Plan, wanted: Plan, log: Log) -> None:
    """Say which ports stay as they are, although nobody is seen to be logged in there now."""
    if wanted is not planned and planned.intent and wanted.intent:
        for ports in wanted.intent.ssh_ports:
            if ports not in planned.intent.ssh_ports:
                why = "a former run left it alone for SSH; --capture-ssh captures it all the same"
                log.warn(f"port {ports} is not captured: {why}")


def same_rules(one: Live, other: Live) -> bool:
    """Whether two readings found the same rules, ours and those of others."""
    return all(
        filled(one.saved(tool).ruleset) == filled(other.saved(tool).ruleset)
        for tool in (Iptables(backend, family) for backend in BACKENDS for family in Family)
    )


def filled(ruleset: Ruleset) -> list[TableRules]:
    """The tables that hold anything: an empty legacy one stays of what was undone, and is nobody's change."""
    return [table for table in ruleset.tables if table.declared or any(block.rules for block in table.blocks)]


def converge_from(live: Live, settings: Settings, planned: Plan, log: Log) -> tuple[Flow, ...]:
    if planned is not NOTHING:
        refuse(live, settings)
        warn_of_others_routing(live, planned, log)
        warn_what_is_not_tracked(live, planned, log)
    live, others = without_other_meshes(live, settings, planned)
    chosen = choose_backend(live, settings, planned)
    log.info(f"Using {chosen}")
    ours_first, take_over = settings.precedence == "ours", settings.take_over and planned is not NOTHING
    doing = list(transaction.steps(live, planned, chosen.backend, take_over=take_over, ours_first=ours_first))
    doing, release = letting_go(doing, live, planned, settings, log)
    doing = transacted(doing, live, planned, others)
    if doing:
        transaction.apply(doing, live, log)
        if planned is not NOTHING:
            log.info("The capture is in place")
    elif planned is not NOTHING:
        for ruleset in planned.rulesets:
            if ruleset.tables:
                tool = Iptables(chosen.backend, ruleset.family)
                live.saved(tool).said_by(tool.teller, log)
        log.info("The capture is already in place: nothing was changed")
    warn_who_goes_first(live, planned, chosen.backend, log, take_over=take_over, ours_first=ours_first)
    if live.nft or live.legacy or live.natives:
        from capture.host.neighbours import findings_of_others  # where a pod starts, nobody has rules

        for found in findings_of_others(live, planned.rulesets, planned.routing, chosen.backend):
            log.warn(str(found))
    return release.cut if release else ()


def letting_go(
    doing: list[Act], live: Live, planned: Plan, settings: Settings, log: Log
) -> tuple[list[Act], Release | None]:
    """The same acts, with a wait for captured connections among them if that is asked for; says how many will be reset.

    Raises CaptureError if nobody can tell for what to wait.
    """
    if not (doing and live.has_sockets and any(map(live.holds_ours, BACKENDS))):
        return doing, None
    from capture.steps.release import release_of

    release = release_of(live, planned, settings.drain or 0.0)
    return (release.announced(doing, log) if release else doing), release


def warn_who_goes_first(
    live: Live, planned: Plan, backend: str, log: Log, *, take_over: bool, ours_first: bool
) -> None:
    """Say what narrower rules of others keep from ours, because they stood there first, and what ours from them."""
    for ruleset in planned.rulesets:
        now = live.saved(Iptables(backend, ruleset.family)).ruleset
        if ruleset.tables and holds_others(now):
            from rules.live.drift import beside_others  # where a pod starts, nobody has rules

            company = live.company(ours_first=ours_first)
            if take_over:
                company = transaction.taking_over(company, now)
            for sentence in beside_others(now, ruleset, company, backend):
                log.warn(sentence)


def warn_of_others_routing(live: Live, planned: Plan, log: Log) -> None:
    """Say what of others is in the way of packets with our mark. Raises OthersFirst where that cannot be helped."""
    if not planned.routing and not any(rule.uids for rule in live.policy_rules):
        return
    from rules.live.drift import REFUSED_FOR, REMEDY, sentence_of
    from rules.live.routing import asking_for_uids, is_asked_first, place_for_ours, routing_in_the_way, rules_before

    for found in asking_for_uids(live.policy_rules, [ruleset.family for ruleset in planned.rulesets if ruleset.tables]):
        log.warn(f"{sentence_of(found)}; {REMEDY[found.kind]}")
    for wanted in planned.routing:
        for found in routing_in_the_way(live.policy_rules, live.routes, wanted):
            if found.kind in REFUSED_FOR:
                raise OthersFirst(
                    f"{sentence_of(found)}; nothing was touched",
                    details=[("what is needed", needed(wanted))],
                    hint=REMEDY[found.kind],
                )
            if found.kind in REMEDY:
                log.warn(f"{sentence_of(found)}; {REMEDY[found.kind]}")
        place = place_for_ours(live.policy_rules, wanted)
        if place is not None and place < RULE_PRIORITY and not is_asked_first(live.policy_rules, wanted):
            passed = [rule for rule in rules_before(live.policy_rules, wanted) if rule.priority < RULE_PRIORITY]
            what = f"The {wanted.family.value} ip rule goes to priority {place}, before those of others:"
            log.info(what, *(f"  {rule}" for rule in passed))


def warn_what_is_not_tracked(live: Live, planned: Plan, log: Log) -> None:
    """Say which rules of others keep from conntrack what is to be captured: they stay in force."""
    for tool in (Iptables(backend, family) for backend in BACKENDS for family in Family):
        now = live.saved(tool).ruleset
        if now.table(RAW).blocks:
            from rules.live.drift import REMEDY, not_tracked, sentence_of

            for found in not_tracked(now, next(each for each in planned.rulesets if each.family is tool.family)):
                log.warn(f"{found.but(backend=tool.backend).place}: {sentence_of(found)}; {REMEDY[found.kind]}")


def needed(wanted: Routing) -> str:
    """The ip rule and the route of TPROXY, in the words of ip(8)."""
    from rules.routing.policy import ip_command

    tool, table = ip_command(wanted.family), wanted.table
    return f"{tool} rule fwmark {wanted.mark:#x} lookup {table}, {tool} route local default dev lo table {table}"


def without_other_meshes(live: Live, settings: Settings, planned: Plan) -> tuple[Live, tuple[str, ...]]:
    """What is live but for the tables of other meshes that are taken over, and those tables. Raises OSError."""
    if not settings.take_over or planned is NOTHING or not native_tables(live.table_names()):
        return live, ()
    from capture.steps.other_meshes import those_to_go

    return those_to_go(live)


def transacted(doing: list[Act], live: Live, planned: Plan, others: Sequence[str]) -> list[Act]:
    """The same acts: what is done in our own tables is one transaction, these tables of other meshes go, and what is
    half open where TPROXY ends is forgotten."""
    if transaction.uses_nft(doing):
        from capture.steps.load import in_transactions

        doing = in_transactions(doing, live.unsound, is_quiet=not live.has_sockets)
    if others:
        from capture.steps.other_meshes import with_tables_gone

        doing = with_tables_gone(doing, others)
    if doing and (live.nft or live.legacy or live.natives):
        from capture.steps.half_open import without_half_open  # where a pod starts nothing captures

        doing = without_half_open(doing, live, planned)
    return doing


def refuse(live: Live, settings: Settings) -> None:
    """Raises WrongPlace or OtherMesh where these settings are not to be applied."""
    if not settings.allow_host:
        refuse_a_node(live.chains(), live.table_names())
    refuse_another_mesh(live, take_over=settings.take_over)


def refuse_a_node(chains: Iterable[str], tables: Iterable[str]) -> None:
    """Raises WrongPlace in the namespace of a Kubernetes node."""
    signs = signs_of_a_node(chains, tables)
    if signs:
        more = f" and {len(signs) - 3} more" if len(signs) > 3 else ""
        raise WrongPlace(
            "this is the network namespace of a Kubernetes node, not of a pod; nothing was touched",
            details=[("recognised by", ", ".join(signs[:3]) + more)],
            hint="a pod with hostNetwork: true must not run this; --allow-host does it all the same",
        )


def refuse_another_mesh(live: Live, *, take_over: bool) -> None:
    """Raises OtherMesh where another mesh captures already: each would hand the other's proxy its traffic."""
    found: dict[str, dict[str, None]] = {}
    for saved in (*live.nft.values(), *live.legacy.values()):
        for mesh, _, chain in chains_of_other_meshes(saved.ruleset):
            found.setdefault(mesh, {})[chain] = None
    what = "chains" if found else "tables"
    for table, mesh in native_tables(live.table_names()).items():
        found.setdefault(mesh, {})[f"table {table}"] = None
    if found and not take_over:
        raise OtherMesh(
            f"the {what} of another mesh are here ({', '.join(found)}); nothing was touched",
            details=[(mesh, ", ".join(chains)) for mesh, chains in found.items()],
            hint=REMEDY,
        )
