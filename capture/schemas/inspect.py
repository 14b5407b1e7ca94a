"""What the commands that look at a namespace print as JSON: pydantic models, and how they are filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from rules.netfilter.iptables_text import rule_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.inspect.status import Held, Status
    from capture.inspect.watch import Row, Seen, Tick
    from rules.live.attribution import Decision
    from rules.live.drift import Finding


class Model(BaseModel):
    """What every model here has."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)


class FindingModel(Model):
    """One difference between what is live and what is planned."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Finding")

    kind: Literal[
        "rule missing",
        "rule unexpected",
        "rule doubled",
        "rule reordered",
        "chain missing",
        "chain left over",
        "jump missing",
        "jump left over",
        "jump doubled",
        "jump moved",
        "rule of an older version left over",
        "rule of others above ours",
        "not tracked",
        "ip rule missing",
        "ip rule doubled",
        "ip rule left over",
        "route missing",
        "route left over",
        "ip rule of others before ours",
        "ip rule of others that cannot be passed",
        "mark used by others",
        "route of others in place of ours",
        "route of others in our table",
        "route of others behind ours",
        "address missing",
        "address left over",
    ]
    """What is the matter. The names stay the same from version to version."""
    backend: str
    """nft or legacy; empty for ip rules, routes and addresses."""
    family: Literal["IPv4", "IPv6"]
    """Whose table, rule, route or address it is."""
    table: str
    """raw, mangle, nat or filter; empty for ip rules, routes and addresses."""
    chain: str
    """The chain; empty likewise."""
    position: int | None
    """Where in the live chain, counted from 1; null for what is not there."""
    planned_position: int | None
    """Where in the planned chain; of our jumps in a built-in chain, which of them. Null for what is not planned."""
    rule: str
    """The rule in iptables' words, or the ip rule, route or address; empty for a chain."""
    why: str
    """What it is for, where the plan tells."""
    setting: str
    """The setting that asked for it; empty if every capture has it."""
    repaired_by_rerun: bool
    """Whether a rerun puts it right."""
    sentence: str
    """All of this in a sentence, with what a rerun does."""


def finding_model(found: Finding) -> FindingModel:
    return FindingModel(
        kind=found.kind.value,
        backend=found.backend,
        family=found.family.value,
        table=found.table,
        chain=found.chain,
        position=found.position,
        planned_position=found.planned_position,
        rule=found.rule,
        why=found.why,
        setting=found.setting,
        repaired_by_rerun=found.repaired_by_rerun,
        sentence=str(found),
    )


class CapturesModel(Model):
    """What the rules of one family capture, told from the rules themselves."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Captures")

    backend: Literal["nft", "legacy"]
    """Of iptables."""
    family: Literal["IPv4", "IPv6"]
    """Whose rules they are."""
    outbound_port: int | None
    """Where outbound TCP goes; null if none is captured."""
    all_outbound: bool
    """Whether that is all that is not excluded, and not only listed destinations or ports."""
    inbound_port: int | None
    """Where inbound TCP goes; null if none is captured."""
    all_inbound: bool
    """Likewise."""
    mode: Literal["REDIRECT", "TPROXY", ""]
    """How inbound TCP gets there."""
    dns: str
    """The port, or address and port, to which DNS queries go; empty if they are not captured."""
    proxy_uids: list[int]
    """Who is taken for the proxy."""
    proxy_gids: list[int]
    """The same by gid."""
    refuses: bool
    """Whether some of what leaves is refused: UDP, or a family that is not captured."""
    sentence: str
    """All of this in a line."""


class RuleModel(Model):
    """A rule of ours, with what it has counted."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Rule")

    position: int
    """In its chain, counted from 1."""
    rule: str
    """As iptables-save writes it, without command and chain."""
    packets: int
    """How many packets it matched; in the nat table each is the first of a connection."""
    bytes: int
    """How many bytes these had."""
    why: str
    """What it is for, as its shape tells; several reasons if they look alike, empty if it is none of ours by shape."""
    setting: str
    """The setting behind it, if only one can be."""


class ChainModel(Model):
    """A chain of ours, or a built-in one with our jumps in it."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Chain")

    backend: Literal["nft", "legacy"]
    """Of iptables."""
    family: Literal["IPv4", "IPv6"]
    """Whose table it is."""
    table: str
    """raw, mangle, nat or filter."""
    chain: str
    """Its name."""
    rules: list[RuleModel]
    """Its rules in order; of a built-in chain, our jumps."""


class IpRuleModel(Model):
    """An ip rule of ours."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="IpRule")

    family: Literal["IPv4", "IPv6"]
    """For which packets."""
    priority: int
    """Its place among the ip rules."""
    mark: int
    """The fwmark it asks for."""
    table: int
    """The routing table it looks up."""


class RouteModel(Model):
    """A route of ours: local default dev lo."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Route")

    family: Literal["IPv4", "IPv6"]
    """For which packets."""
    table: int
    """In which routing table it is."""


class AddressModel(Model):
    """`::6`, from which the proxy hands inbound IPv6 to the application."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Address")

    ours: bool
    """Whether it carries our signature."""
    age: float | None
    """How many seconds ago it was added; null if the kernel does not tell."""


class OtherMeshModel(Model):
    """A chain of another mesh."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="OtherMesh")

    mesh: str
    """Whose it is, by its name."""
    backend: Literal["nft", "legacy"]
    """Of iptables."""
    family: Literal["IPv4", "IPv6"]
    """Whose table it is in."""
    table: str
    """Which table."""
    chain: str
    """The chain."""


class ListenerModel(Model):
    """A socket that listens where our rules send something."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Listener")

    protocol: Literal["tcp", "udp"]
    """What it hears."""
    address: str
    """On which address."""
    uid: int
    """Of the process, if it can be seen; else of whoever opened the socket."""
    gid: int | None
    """Of the process; null if it cannot be seen."""
    process: str
    """The process, as in `pid 7 (envoy)`; empty if it cannot be seen."""


class PlaceModel(Model):
    """A port to which our rules send something."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Place")

    what: Literal["outbound TCP", "inbound TCP", "DNS"]
    """What is sent there."""
    port: int
    """Where."""
    listeners: list[ListenerModel]
    """Who listens there; empty if nobody does."""
    problems: list[str]
    """What keeps what is sent there from arriving, or from being passed on, in a sentence each."""


class StatusModel(Model):
    """What `capture status` shows."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Status")

    installed: bool
    """Whether anything of ours is in the namespace: exit status 0, else 3."""
    captures: list[CapturesModel]
    """For each backend and family that holds chains of ours."""
    chains: list[ChainModel]
    """Our chains and hooks, by backend, family and table."""
    ip_rules: list[IpRuleModel]
    """Those that carry our signature."""
    routes: list[RouteModel]
    """Likewise."""
    passthrough: AddressModel | None
    """Null if it is on no interface."""
    proxy: list[PlaceModel]
    """Where our rules send things, and who listens there."""
    resolvers: list[str]
    """DNS servers in the namespace whose own queries are captured, in a sentence each."""
    in_the_way: list[FindingModel]
    """Rules of others by which traffic gets past ours."""
    other_meshes: list[OtherMeshModel]
    """Chains of other meshes."""
    native_tables: list[str]
    """Tables of nf_tables that another mesh programs without iptables."""


def rule_model(held: Held) -> RuleModel:
    return RuleModel(
        position=held.position,
        rule=rule_text(held.rule),
        packets=held.count.packets,
        bytes=held.count.bytes,
        why=held.rule.why,
        setting=held.rule.setting,
    )


def status_model(found: Status) -> StatusModel:
    rules: dict[tuple[object, ...], list[RuleModel]] = {}
    for held in found.rules:
        rules.setdefault((held.backend, held.family, held.table, held.chain), []).append(rule_model(held))
    return StatusModel.model_validate(
        {
            "installed": found.is_there,
            "captures": [
                {
                    "backend": backend,
                    "family": captured.family.value,
                    "outbound_port": captured.outbound_port,
                    "all_outbound": captured.all_outbound,
                    "inbound_port": captured.inbound_port,
                    "all_inbound": captured.all_inbound,
                    "mode": captured.mode,
                    "dns": captured.dns,
                    "proxy_uids": captured.uids,
                    "proxy_gids": captured.gids,
                    "refuses": captured.refuses,
                    "sentence": str(captured),
                }
                for backend, captured in found.captures
            ],
            "chains": [
                {"backend": place[0], "family": place[1].value, "table": place[2], "chain": place[3]}
                | {"rules": rules.get(place, [])}
                for place in found.chains
            ],
            "ip_rules": [
                {"family": rule.family.value, "priority": rule.priority, "mark": rule.mark, "table": rule.table}
                for rule in found.policy_rules
            ],
            "routes": [{"family": route.family.value, "table": route.table} for route in found.routes],
            "passthrough": found.passthrough and {"ours": found.passthrough.is_ours, "age": found.passthrough.age},
            "proxy": [
                {
                    "what": place.what,
                    "port": place.port,
                    "listeners": [
                        {"protocol": each.protocol, "address": str(each.address), "process": each.process}
                        | {"uid": each.uid, "gid": each.gid}
                        for each in place.listeners
                    ],
                    "problems": place.problems,
                }
                for place in found.heard.places
            ],
            "resolvers": found.heard.loops,
            "in_the_way": [finding_model(each) for each in found.in_the_way],
            "other_meshes": [
                {"mesh": mesh, "backend": backend, "family": family.value, "table": table, "chain": chain}
                for mesh, backend, family, table, chain in found.other_meshes
            ],
            "native_tables": list(found.native_tables),
        }
    )


class DecisionModel(Model):
    """A rule that decides about connections."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Decision")

    backend: str
    """nft or legacy."""
    table: str
    """nat, or mangle in TPROXY mode."""
    chain: str
    """A chain of ours."""
    position: int
    """In its chain, counted from 1."""
    rule: str
    """As iptables-save writes it, without command and chain."""
    captures: bool
    """Whether it hands the connection to the proxy, or lets it go."""
    why: str
    """What it is for, as its shape tells."""


class NoteEvent(Model):
    """What this watch cannot see; said once."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Note")

    event: Literal["note"] = "note"
    time: str
    """RFC 3339 in UTC."""
    text: str
    """In words."""


class ConnectionEvent(Model):
    """A new connection."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Connection")

    event: Literal["connection"] = "connection"
    time: str
    """RFC 3339 in UTC: the end of the interval in which it was made."""
    family: Literal["IPv4", "IPv6"]
    """Of its addresses."""
    protocol: str
    """tcp, udp, or a number."""
    direction: Literal["out", "in"]
    """out: a process of the namespace made it."""
    source: str
    """The address of who made it."""
    source_port: int
    """And the port."""
    destination: str
    """The address that was asked for."""
    destination_port: int
    """And the port."""
    answered_by: str
    """The address that answers: another than was asked for if it was redirected."""
    answered_by_port: int
    """And the port."""
    captured: bool | None
    """Whether a rule of ours gave it to the proxy; null if that cannot be told."""
    redirected_by_others: bool
    """Whether somebody else's rule changed where it goes."""
    decided_by: list[DecisionModel]
    """The rule that decided. Several if conntrack does not know enough to tell, none if no rule of ours counted."""


class MoreEvent(Model):
    """More connections than were listed in an interval."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="More")

    event: Literal["more"] = "more"
    time: str
    """RFC 3339 in UTC."""
    connections: int
    """At least so many."""


class CountersEvent(Model):
    """A rule that counted in an interval."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Counters")

    event: Literal["counters"] = "counters"
    time: str
    """RFC 3339 in UTC."""
    family: Literal["IPv4", "IPv6"]
    """Whose rule it is."""
    rule: DecisionModel
    """The rule."""
    packets: int
    """In this interval; in the nat table each stands for a connection."""
    seconds: float
    """How long the interval was."""
    since_start: int
    """Packets since the watch began."""
    total: int
    """Packets since the rule was made."""


class DriftEvent(Model):
    """What differs has changed. The first line of a watch says what differs at the start."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Drift")

    event: Literal["drift", "no drift"]
    """`no drift` if nothing differs (any more)."""
    time: str
    """RFC 3339 in UTC."""
    against: Literal["the settings", "the start"]
    """What it is measured against."""
    changed_by: list[str]
    """Programs that changed nf_tables in this interval, where the kernel tells."""
    findings: list[FindingModel]
    """All that differs now, as verify tells it."""


class WatchModel(
    RootModel[
        Annotated[
            NoteEvent | ConnectionEvent | MoreEvent | CountersEvent | DriftEvent,
            Field(discriminator="event"),
        ]
    ]
):
    """One line of `capture watch --output json`."""

    model_config = ConfigDict(title="Watch")


def decision_model(backend: str, decision: Decision) -> DecisionModel:
    return DecisionModel(
        backend=backend,
        table=decision.table,
        chain=decision.chain,
        position=decision.position,
        rule=rule_text(decision.rule),
        captures=decision.captures,
        why=decision.rule.why,
    )


def watch_events(tick: Tick, now: str, notes: Sequence[str], against: str, *, is_first: bool) -> Iterator[Model]:
    """The lines of one interval."""
    yield from (NoteEvent(time=now, text=note) for note in notes)
    yield from (connection_event(seen, now) for seen in tick.seen)
    if tick.more:
        yield MoreEvent(time=now, connections=tick.more)
    yield from (counters_event(row, tick.seconds, now) for row in tick.rows if row.recently)
    if tick.drift_is_new or is_first:
        yield DriftEvent(
            event="drift" if tick.drift else "no drift",
            time=now,
            against=against,  # type: ignore[arg-type] # pydantic checks it
            changed_by=list(tick.changed_by),
            findings=[finding_model(each) for each in tick.drift],
        )


def connection_event(seen: Seen, now: str) -> ConnectionEvent:
    made = seen.connection
    return ConnectionEvent(
        time=now,
        family=made.family.value,
        protocol=made.protocol,
        direction="out" if seen.is_outbound else "in",
        source=str(made.source),
        source_port=made.source_port,
        destination=str(made.destination),
        destination_port=made.destination_port,
        answered_by=str(made.answers_from),
        answered_by_port=made.answers_port,
        captured=seen.is_captured,
        redirected_by_others=seen.is_redirected_by_others,
        decided_by=[decision_model(backend, decision) for backend, decision in seen.decided_by],
    )


def counters_event(row: Row, seconds: float, now: str) -> CountersEvent:
    return CountersEvent(
        time=now,
        family=row.family.value,
        rule=decision_model(row.backend, row.decision),
        packets=row.recently,
        seconds=round(seconds, 3),
        since_start=row.since_start,
        total=row.total,
    )
