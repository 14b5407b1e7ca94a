"""`capture trace`: what would become of a packet, and the rule that decides it."""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from capture.commands.base import (
    SettingsCommand,
    looked_up,
    looked_up_or_without,
    output_option,
    reporting,
    said_settings,
)
from capture.errors import DEPENDS, BadSettings, CaptureError, Refusal
from capture.host import facts
from capture.host.live import read_live
from capture.host.neighbours import name_of
from capture.inspect.verify import others_routing
from capture.iptables.iptables import BACKENDS, NFT, Iptables
from capture.kernel.rights import not_permitted
from capture.netlink import rtnetlink
from capture.output import say, say_json
from capture.schemas.answers import as_json
from capture.settings import parsers
from capture.settings.declared import DECLARED_BY_NAME, MEANING
from rules.analysis.probes import ELSEWHERE
from rules.iptables.writing import rule_text
from rules.live.changes import ours_in
from rules.live.reasons import explained
from rules.netfilter.fields import STATES
from rules.netfilter.hooks import INPUT
from rules.netfilter.routing import Flow, Policy
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import PREROUTING, All, Family
from rules.plan.names import LOOPBACK, PASSTHROUGH
from rules.plan.plan import plan
from rules.simulator.simulate import (
    NEW,
    Became,
    Direction,
    Host,
    Local,
    Packet,
    conclusion,
    in_any_order,
    written,
)
from rules.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ClassVar

    from capture.host.facts import Facts
    from capture.host.live import Live
    from capture.settings.declared import Settings
    from rules.plan.plan import Plan
    from rules.simulator.simulate import Address, Step, Trace

FIRST_APPLICATION = 1000
SOCKETS = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
FAMILIES = {4: Family.V4, 6: Family.V6}
BOUND_SOCKET = (
    "a socket that is bound to an interface (SO_BINDTODEVICE, `curl --interface eth0`) hangs instead: what is captured "
    "goes over lo"
)
RESOLVER_OPTIONS = "timeout:1 attempts:1"
"""For resolv.conf(5): a name that nobody knows is not waited for."""


class Answered(Value):
    """What becomes of a packet, and why."""

    trace: Trace
    notes: tuple[str, ...]
    """What was assumed."""
    sentence: str
    """The answer in one sentence."""

    TOLD: ClassVar = (
        "outcome",
        "to_address",
        "to_port",
        "decided_by",
        "trace.packet",
        "trace.steps",
        "trace.depends_on",
        "notes",
        "sentence",
    )

    @property
    def outcome(self) -> Became:
        """What becomes of it: captured, redirected by others, let go, stopped, or that it depends."""
        return self.trace.became

    @property
    def to_address(self) -> Address | None:
        """Where it goes in the end; None if nowhere, or if that depends."""
        return self.trace.address

    @property
    def to_port(self) -> int | None:
        """To which port; None likewise."""
        return self.trace.port

    @property
    def decided_by(self) -> Step | None:
        """The rule that decided it; None if it fell through them all, or something other than a rule decided."""
        return self.trace.decided


class TraceCommand(SettingsCommand):
    """Tells `--udp`, the protocol, from `--udp PORT=POLICY`, the setting."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        for at, word in enumerate(words):
            following = words[at + 1] if at + 1 < len(words) else ":"
            if word == "--":
                break
            is_policy = not following or ("=" in following and not following.startswith("-"))
            if word == "--tcp" or (word == "--udp" and not is_policy):
                words[at] = f"--protocol={word[2:]}"
        return super().parse_args(ctx, words)


@click.command(cls=TraceCommand, uses=MEANING, needs=lambda asked: not asked["live"])
@click.argument("to", metavar="[HOST]:PORT", nargs=-1)
@click.option("--out", "outward", is_flag=True, help="A process in the pod sends it. This is the default.")
@click.option("--in", "inward", is_flag=True, help="It arrives from outside.")
@click.option(
    "--protocol",
    type=click.Choice(["tcp", "udp"]),
    default="tcp",
    help="`--tcp` and `--udp` are short for it. `--udp PORT=POLICY` is the setting.",
)
@click.option("--uid", "user", metavar="USER", help="Who sends it, by uid or name. By default an application.")
@click.option("--gid", "group", metavar="GROUP", help="The group it is sent with. By default the uid.")
@click.option("--src", "source", metavar="IP[:PORT]", help="Where it comes from.")
@click.option("--iface", "interface", metavar="NAME", help="The interface it arrives on, or would leave by.")
@click.option(
    "--state",
    type=click.Choice([state.lower() for state in STATES]),
    default=NEW.lower(),
    help="What conntrack makes of it. `established`: a later packet, in the direction of the first.",
)
@click.option("--mark", metavar="MARK", help="The fwmark that it has from the start.")
@click.option("--live", is_flag=True, help="Ask the rules that the namespace holds, not those of the settings.")
@click.option("--all-rules", is_flag=True, help="Show every rule that is asked, not only those that match.")
@output_option("the trace", Answered)
def command(**asked: Any) -> None:
    """Tell what becomes of a packet, and which rule decides it, of which setting.

    The packet is followed through the rules that the settings mean, as the kernel would; nothing is sent, and no
    privilege is needed. With --live it is followed through the rules that are there, of both backends, which takes
    the rights to read them. Ends with status 5 if it depends on rules of others that cannot be asked.
    """
    with reporting():
        answer = Answer(Question(asked), said_settings())
    if asked["output"] == "json":
        say_json(as_json(answer.told()))
    else:
        say(*answer.lines(all_rules=asked["all_rules"]))
    if answer.trace.became is Became.DEPENDS:
        sys.exit(DEPENDS)


class Question:
    """The command line, read and checked. Raises BadSettings for what cannot be asked."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.refusals: list[Refusal] = []
        self.notes: list[str] = []
        self.direction = Direction.IN if asked["inward"] else Direction.OUT
        self.protocol: str = asked["protocol"]
        self.state: str = asked["state"].upper()
        self.live: bool = asked["live"]
        self.mark: int = self.read("--mark", asked["mark"], parsers.mark) or 0
        self.interface: str = self.read("--iface", asked["interface"], one_interface) or ""
        if asked["inward"] and asked["outward"]:
            self.refuse("flag --out", None, "contradicts --in; give one of the two")
        self.uid = self.read("--uid", asked["user"], lambda text: an_id(text, facts.uid_of, "user"))
        self.gid = self.read("--gid", asked["group"], lambda text: an_id(text, facts.gid_of, "group"))
        if self.direction is Direction.IN:
            for flag, given in (("--uid", asked["user"]), ("--gid", asked["group"])):
                if given is not None:
                    self.refuse(f"flag {flag}", given, "is without meaning for --in: what arrives has no owner here")
        came_from: tuple[Address | None, int | None] = self.read("--src", asked["source"], a_source) or (None, None)
        self.source, self.source_port = came_from
        self.address: Address | None = None
        self.port = 0
        self.read_destination(asked["to"])
        if self.refusals:
            raise BadSettings(self.refusals)

    def refuse(self, where: str, value: str | None, reason: str) -> None:
        self.refusals.append(Refusal(where, value, reason))

    def read(self, flag: str, text: str | None, reader: Callable[[str], Any]) -> Any:
        """A flag's value, read; None if it was not given, or was refused."""
        try:
            return None if text is None else reader(text)
        except ValueError as refused:
            self.refuse(f"flag {flag}", text, str(refused))
            return None

    def read_destination(self, words: tuple[str, ...]) -> None:
        if len(words) != 1:
            given = f"{len(words)} are given" if words else "none is given"
            self.refuse(
                "argument [HOST]:PORT", None, f"{given}; give one, such as 9.9.9.9:80, [2001:db8::1]:443 or :80"
            )
            return
        (text,) = words
        try:
            host, self.port = host_and_port(text)
            if host or self.direction is Direction.OUT:
                self.address, *others = addresses_of(host)
                if others:
                    listed = ", ".join(map(str, others))
                    self.notes.append(f"{host} is {self.address}; it is also {listed}, which is not traced")
                elif host != str(self.address):
                    self.notes.append(f"{host} is {self.address}")
            if self.address and self.source and self.address.version != self.source.version:
                self.refuse("flag --src", str(self.source), f"is not of the family of {self.address}")
        except ValueError as refused:
            self.refuse("argument", text, str(refused))


class Answer:
    """What becomes of the packet, in words."""

    def __init__(self, question: Question, settings: Settings) -> None:
        self.question = question
        self.notes = list(question.notes)
        self.settings = settings
        if question.live:
            self.settings, known, self.resolved = looked_up_or_without(settings)
        else:
            known, self.resolved = looked_up(settings)
        planned = plan(self.resolved.intent)
        self.backends: tuple[str, ...] = ("",)
        self.is_as_planned = True
        live = self.read_live() if question.live else None
        self.host = self.host_of(known, planned, live)
        self.packet = self.packet_of(known)
        of_family = self.explained(live, self.ruleset(planned)) if live else (self.ruleset(planned),)
        natives = live.natives.get(self.packet.family, ()) if live else ()
        self.trace = in_any_order(of_family, self.packet, self.host, natives)
        self.sentence = conclusion(self.trace, self.said)
        if self.trace.bound and self.trace.became.is_captured and self.packet.direction is Direction.OUT:
            self.notes.append(BOUND_SOCKET)

    def ruleset(self, planned: Plan) -> Ruleset:
        """What the settings mean for the family of the packet."""
        return next(ruleset for ruleset in planned.rulesets if ruleset.family is self.packet.family)

    def read_live(self) -> Live:
        """What the namespace holds, in whatever backend; what of it cannot be followed is noted."""
        live = read_live()
        if isinstance(live.nft_error, PermissionError):
            raise not_permitted()
        self.backends = tuple(name for name in BACKENDS if live.holds_rules(name))
        if not live.legacy_is_known:
            self.notes.append("only uid 0 may see whether there are legacy tables; if there are, they are not followed")
        natives = [table for tables in live.natives.values() for table in tables]
        if not self.backends and not natives:
            self.notes.append("the namespace holds no rules")
        for table in dict.fromkeys(str(table) for table in natives if table.is_dormant):
            self.notes.append(f"the table {table} is dormant: the kernel asks none of its chains")
        self.notes += map(str, others_routing(live))
        return live

    def explained(self, live: Live, wanted: Ruleset) -> tuple[Ruleset, ...]:
        """The live rules for the packet, of each backend, with their reasons."""
        held = [live.saved(Iptables(name, wanted.family)).ruleset for name in self.backends]
        self.is_as_planned = all(ours_in(ruleset) in (wanted, Ruleset(wanted.family)) for ruleset in held)
        return tuple(explained(ruleset, wanted) for ruleset in held)

    def backend_of(self, step: Step) -> str:
        if not self.question.live:
            return ""
        return self.backends[step.layer] if step.layer < len(self.backends) else NFT

    # --- the packet ---------------------------------------------------------------------------------------

    def host_of(self, known: Facts, planned: Plan, live: Live | None) -> Host:
        local = [Local(name_of(address), address.ip, address.prefix) for address in known.addresses or ()]
        if planned.passthrough_address and not self.question.live:
            local.append(Local("lo", PASSTHROUGH[Family.V6].network_address, 128))
        outside = [address.interface for address in local if address.interface != "lo"]
        interface = outside[0] if outside else "eth0"
        if live is None:
            return Host(tuple(local), interface, planned.routing)
        return Host(
            tuple(local), interface, policy=Policy(live.policy_rules, rtnetlink.routes(passed_over=frozenset()))
        )

    def packet_of(self, known: Facts) -> Packet:
        question, destination = self.question, self.question.address
        if question.direction is Direction.IN or destination is None:
            return self.arriving(known)
        family = FAMILIES[destination.version]
        chosen = question.source or self.own_address_to(family, destination)
        interface = question.interface or self.way_to(family, destination, chosen)
        uid, gid = self.sender()
        return Packet(
            Direction.OUT,
            family,
            question.protocol,
            chosen,
            destination,
            question.port,
            interface,
            question.source_port,
            uid,
            gid,
            question.mark,
            question.state,
        )

    def own_address_to(self, family: Family, destination: Address) -> Address:
        """The source address that the kernel would choose; one of ours if it knows no way. Nothing is sent.

        Raises CaptureError if it knows no way and is the one that is asked about.
        """
        if self.host.is_local(destination):
            return self.host.source_to(family, destination)
        try:
            with socket.socket(SOCKETS[family], socket.SOCK_DGRAM) as unsent:
                unsent.connect((str(destination), self.question.port))
                return ip_address(unsent.getsockname()[0])
        except OSError as error:
            what = f"there is no way to {destination} from here ({error.strerror})"
            if self.question.live and not self.question.interface:
                raise CaptureError(f"{what}, so nothing is sent", hint="--iface asks all the same") from error
            own = self.host.addresses
            outside = [at.address for at in own if FAMILIES[at.address.version] is family and is_outside(at.address)]
            source = outside[0] if outside else ELSEWHERE[family][1]
            self.notes.append(f"{what}; taken to be sent from {source}")
            return source

    def way_to(self, family: Family, destination: Address, source: Address) -> str:
        """The interface by which it leaves: that of its source, if it is one of ours outside."""
        host = self.host
        if host.is_local(destination) or host.is_kept(Flow(family, self.question.mark, destination, source, "lo", "")):
            return "lo"
        of_source = [local.interface for local in host.addresses if local.address == source and local.interface != "lo"]
        return of_source[0] if of_source else host.leaves_on(family, destination, self.question.mark)

    def sender(self) -> tuple[int, int]:
        """Who sends it: as asked, or an application."""
        question, intent = self.question, self.resolved.intent
        uid, gid = question.uid, question.gid
        if uid is None:
            taken = {*intent.proxy_uid, *intent.proxy_gid}
            uid = next(i for i in range(FIRST_APPLICATION, 1 << 32) if i not in taken)
            self.notes.append(f"sent by an application, taken to be uid {uid}; --uid says another")
        return uid, uid if gid is None else gid

    def arriving(self, known: Facts) -> Packet:
        question, host = self.question, self.host
        destination = question.address
        wanted = question.source.version if question.source else None
        if destination is None:
            usable = known.usable(FAMILIES[wanted] if wanted else None)
            if not usable:
                of_family = f" of IPv{wanted}" if wanted else ""
                reason = f"names no host, and there is no address{of_family} here that others could reach; name one"
                raise BadSettings([Refusal("argument", f":{question.port}", reason)])
            destination = usable[0].ip
        family = FAMILIES[destination.version]
        interface = question.interface
        if not interface:
            own = [local.interface for local in host.addresses if local.address == destination]
            interface = next((name for name in own if name != "lo"), host.default_interface)
        if destination.is_loopback and interface != "lo":
            reason = "is a loopback address: the kernel lets nothing arrive there from outside"
            raise BadSettings([Refusal("argument", str(destination), reason)])
        if not question.live and not any(local.interface == interface for local in host.addresses):
            assumed = Local(interface, ELSEWHERE[family][1], 0)
            self.host = host.but(addresses=(*host.addresses, assumed))
            self.notes.append(f"{interface} has no address here; taken to have one, {assumed.address}")
        source = question.source
        if source is None:
            source = LOOPBACK[family].network_address if interface == "lo" else ELSEWHERE[family][0]
            self.notes.append(f"sent by a client taken to be {source}; --src says another")
        return Packet(
            Direction.IN,
            family,
            question.protocol,
            source,
            destination,
            question.port,
            interface,
            question.source_port,
            mark=question.mark,
            state=question.state,
        )

    # --- words --------------------------------------------------------------------------------------------

    def told(self) -> Answered:
        """The answer, each step with what the operator said and the backend that holds it."""

        def known(step: Step) -> Step:
            option = self.said(step.rule.setting) if step.rule.setting else ""
            return step.but(option=option, backend=self.backend_of(step))

        trace = self.trace
        decided = known(trace.decided) if trace.decided else None
        steps, depends_on = tuple(map(known, trace.steps)), tuple(map(known, trace.depends_on))
        return Answered(
            trace.but(steps=steps, depends_on=depends_on, decided=decided), tuple(self.notes), self.sentence
        )

    def said(self, name: str) -> str:
        """How the operator said a setting: `flag -x "10.0.0.0/8"`.

        Of live rules that differ from what these settings mean, only the flag is known.
        """
        setting = DECLARED_BY_NAME[name]
        if not self.is_as_planned:
            return setting.shown
        origin = self.resolved.derived.get(name, self.settings.origins[name])
        if origin.text is not None:
            return f"{origin} {quoted(origin.text)}"
        how = "by default" if origin.kind == "default" else str(origin)
        return f"{setting.shown} {quoted(shown(getattr(self.resolved.intent, name)))} {how}"

    def lines(self, *, all_rules: bool) -> Iterator[str]:
        """The answer as text."""
        yield described(self.packet)
        yield from (f"  {note}" for note in self.notes)
        yield ""
        steps = [step for step in self.trace.steps if all_rules or step.matched is not False]
        heading = ""
        for step in steps:
            backend = self.backend_of(step)
            back = self.packet.direction is Direction.OUT and step.hook in (PREROUTING, INPUT)
            title = f"{step.table} {step.hook}{f' ({backend})' if backend else ''}{' over lo' if back else ''}"
            if title != heading:
                heading = title
                yield title
            sign = {True: "✓", False: " ", None: "?"}[step.matched]
            yield f"  {sign} {step.chain} {step.position}: {rule_text(step.rule)}"
            if step.matched is not False and step.rule.why:
                setting = f" [{self.said(step.rule.setting)}]" if step.rule.setting else ""
                yield f"      {step.rule.why}{setting}"
        if not steps:
            yield "no rule matches it"
        yield ""
        yield self.sentence


def described(packet: Packet) -> str:
    """The packet that is asked about."""
    port = f":{packet.source_port}" if packet.source_port else ""
    place = written if port else str
    parts = [f"{packet.family.value} {packet.protocol.upper()} to {written(packet.destination)}:{packet.port}"]
    parts.append(f"from {place(packet.source)}{port}")
    if packet.direction is Direction.OUT:
        parts += [f"by uid {packet.uid}, gid {packet.gid}", f"leaving on {packet.interface}"]
    else:
        parts.append(f"arriving on {packet.interface}")
    if packet.mark:
        parts.append(f"with mark {packet.mark:#x}")
    first = packet.state == NEW
    parts.append("the first packet of its connection" if first else f"state {packet.state}")
    return ", ".join(parts)


def shown(value: object) -> str:
    """A value of an intent as one would write it on a command line."""
    if isinstance(value, All):
        return "*"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def quoted(text: str) -> str:
    return f'"{text}"'


# --- reading ------------------------------------------------------------------------------------------------


def host_and_port(text: str) -> tuple[str, int]:
    """`9.9.9.9:80`, `[2001:db8::1]:443`, `example.org:443`, `:80` or `80`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("is not HOST:PORT; an IPv6 address goes in brackets, as in [2001:db8::1]:443")
    if not colon and not port.isdigit():
        raise ValueError("has no port; give HOST:PORT, such as 9.9.9.9:80")
    try:
        return host.strip("[]"), parsers.port(port)
    except ValueError:
        raise ValueError("has no port from 1 to 65535 behind the last colon; give HOST:PORT") from None


def addresses_of(host: str) -> list[Address]:
    """The addresses that a name stands for, or the one that it is. Raises ValueError."""
    if not host:
        raise ValueError("names no host; give HOST:PORT, such as 9.9.9.9:80")
    try:
        return [usable(parsers.address(host))]
    except ValueError as refused:
        if all(char in "0123456789abcdefABCDEF:." for char in host) and not any(map(str.isalpha, host.split(":")[0])):
            raise ValueError(f"has {host} for a host, which {refused}") from None
    os.environ.setdefault("RES_OPTIONS", RESOLVER_OPTIONS)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError(f"has {host} for a host, a name that is not known here; give its address") from None
    return [usable(ip_address(address)) for address in dict.fromkeys(str(entry[4][0]) for entry in found)]


def usable(address: Address) -> Address:
    """An address that one host has. Raises ValueError."""
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError("is the address of no single host; give one")
    return address


def a_source(text: str) -> tuple[Address, int | None]:
    """`10.0.0.1`, `10.0.0.1:5353`, `fd00::1` or `[fd00::1]:5353`."""
    try:
        return usable(parsers.address(text.strip("[]"))), None
    except ValueError as refused:
        host, colon, port = text.rpartition(":")
        if not colon or (":" in host and not host.startswith("[")):
            raise ValueError(str(refused)) from None
        return usable(parsers.address(host.strip("[]"))), parsers.port(port)


def an_id(text: str, lookup: Callable[[str], int | None], kind: str) -> int:
    """A number, or the name of somebody on this host."""
    owner = parsers.owner(text)
    number = lookup(owner.name) if isinstance(owner, parsers.Name) else owner
    if number is None:
        raise ValueError(f"is no {kind} on this host; give the number")
    return number


def one_interface(text: str) -> str:
    (name,) = parsers.interfaces(text) or ("",)
    if not name or name.endswith("+"):
        raise ValueError("is not the name of one interface")
    return name


def is_outside(address: Address) -> bool:
    """Whether others could answer to it."""
    return not (address.is_loopback or address.is_link_local or address in PASSTHROUGH[Family.V6])
