"""What the operator said: every flag and variable, declared once, with where each value came from.

A declaration is read in four places: by `load` on the init path, by the pydantic model of `capture.settings.model`,
by the help of the command line, and by the reference in `docs/`. Only the first is paid for when a pod starts, which is
why nothing here needs pydantic or click.
"""

from __future__ import annotations

from capture.errors import BadSettings, Refusal
from capture.kernel import netns
from capture.settings import parsers
from capture.settings.argv import Argument, read_argv
from capture.text import quoted
from rules.netfilter.values import ALL, All
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from typing import Any, TypeVar

    from capture.lists.files import Lists
    from rules.addresses import IPv4Address, IPv6Address
    from rules.netfilter.values import Network, Ports
    from rules.plan.intent import PortsOfUsers, UdpPolicy, Uids

    T = TypeVar("T")
    D = TypeVar("D")


class Origin(Value):
    """Where a value came from: `flag`, `annotation`, `environment`, `file`, `default`, or `derived` from all that."""

    kind: str
    name: str = ""
    """The flag as it was typed, the annotation's or variable's name, the file's and the name in it, or what it was
    derived from."""
    text: str | None = None
    """What was written there."""
    file: str = ""
    """The file that the text names a list in, or `standard input`."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".strip()


class SettingsWarning(Value):
    """What was understood, and will surprise all the same."""

    code: str
    """What kind of warning it is, in a word for programs."""
    setting: str
    """The setting it is about, the one to change, by its field."""
    what: str
    """What is so."""
    fix: str = ""
    """What helps, if anything does."""

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


class Declaration:
    """One declaration. As a class attribute of `Settings` it stands for the value an instance will have."""

    def __init__(
        self,
        read: parsers.Reader[Any],
        default: Any,
        flags: tuple[str, ...],
        env: tuple[str, ...],
        empty_counts: bool,
        surprises: Callable[[str, Any], Iterator[str]],
        ours: bool,
        about: str,
    ) -> None:
        self.read = read
        self.default = default
        self.short = next((flag for flag in flags if len(flag) == 2), "")
        self.long = next((flag for flag in flags if len(flag) > 2), "")
        variable = self.long[2:].upper().replace("-", "_")
        self.env = env + ((f"CAPTURE_{variable}",) if ours else (variable,) if self.long else ())
        """The names of its variables, the one that wins first."""
        self.empty_counts = empty_counts
        """Whether a variable that is set but empty says something, as it does in istio-iptables for two."""
        self.surprises = surprises
        """What in a text, and what was read of it, will surprise whoever wrote it, in sentences."""
        self.about = about
        self.name = ""
        """The attribute of `Settings`; for those that shape rules, also the field of `Intent`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def is_switch(self) -> bool:
        """Whether a bare flag means true."""
        return self.read is parsers.boolean

    @property
    def is_list(self) -> bool:
        """Whether it takes several values at once, in a file a list."""
        return self.read in parsers.SEPARATORS

    @property
    def separator(self) -> str:
        """What stands between the entries of a list."""
        return parsers.SEPARATORS.get(self.read, ",")

    @property
    def is_duration(self) -> bool:
        return self.read in (parsers.duration, parsers.whole_seconds)

    @property
    def shown(self) -> str:
        """How error messages and help call it: its long flag, or its variable if it has none."""
        return self.long or self.env[0]


def no_surprises(_: str, __: object) -> Iterator[str]:
    return iter(())


def setting(
    read: parsers.Reader[T],
    default: D,
    *flags: str,
    env: tuple[str, ...] = (),
    empty_counts: bool = False,
    surprises: Callable[[str, Any], Iterator[str]] = no_surprises,
    ours: bool = False,
    about: str,
) -> T | D:
    """Declares a setting. A class body gets a `Said`, for what an instance has: what `read` makes, or the default.

    `ours`: istio-iptables has no such flag. Its variable begins with `CAPTURE_`, lest it mean something to others.
    """
    return Declaration(read, default, flags, env, empty_counts, surprises, ours, about)  # type: ignore[return-value] # as dataclasses.field does


def switch(*flags: str, env: tuple[str, ...] = (), ours: bool = False, about: str) -> bool:
    """Declares a setting that is false unless somebody asks for it."""
    return setting(parsers.boolean, False, *flags, env=env, ours=ours, about=about)


class Settings:
    """What the operator said, checked. Made by `load`, or by `capture.settings.model` from what pydantic checked."""

    config: str = setting(
        parsers.text,
        "",
        "--config",
        ours=True,
        about="A file of settings, YAML or JSON, or - for stdin. What flags and variables say wins over it.",
    )
    proxy_port: int = setting(
        parsers.port, 15001, "-p", "--envoy-port", about="Port of the proxy where captured outbound TCP goes."
    )
    inbound_capture_port: int = setting(
        parsers.port, 15006, "-z", "--inbound-capture-port", about="Port of the proxy where captured inbound TCP goes."
    )
    inbound_tunnel_port: int = setting(
        parsers.port,
        15008,
        "-e",
        "--inbound-tunnel-port",
        about="The proxy's tunnel port (HBONE), not captured by REDIRECT.",
    )
    proxy_uid: tuple[int | parsers.Name, ...] | None = setting(
        parsers.owners,
        None,
        "-u",
        "--proxy-uid",
        about="Users that are never captured, by number or name. By default the user that ENVOY_USER names, else 1337.",
    )
    proxy_gid: tuple[int | parsers.Name, ...] | None = setting(
        parsers.owners,
        None,
        "-g",
        "--proxy-gid",
        about="Groups that are never captured, by number or name. By default the value of --proxy-uid.",
    )
    interception_mode: str = setting(
        parsers.one_of("REDIRECT", "TPROXY", empty="REDIRECT"),
        "REDIRECT",
        "-m",
        "--istio-inbound-interception-mode",
        about="How inbound TCP gets to the proxy: REDIRECT, or TPROXY, which keeps the client's address.",
    )
    inbound_ports: All | Sequence[Ports] = setting(
        parsers.all_or_ports,
        ALL,
        "-b",
        "--istio-inbound-ports",
        about="Inbound ports to capture: * for all, a list, or empty for none.",
    )
    inbound_ports_exclude: tuple[Ports, ...] = setting(
        parsers.ports,
        (),
        "-d",
        "--istio-local-exclude-ports",
        about="Inbound ports that are not captured. Only of use where -b is *.",
    )
    exclude_interfaces: tuple[str, ...] = setting(
        parsers.interfaces,
        (),
        "-c",
        "--istio-exclude-interfaces",
        about="Interfaces on which nothing is captured, in either direction.",
    )
    exclude_inbound_interfaces: tuple[str, ...] = setting(
        parsers.interfaces,
        (),
        "--exclude-inbound-interfaces",
        ours=True,
        about="Interfaces on which nothing that arrives is captured; what leaves there is.",
    )
    outbound_cidrs: All | Sequence[Network] | None = setting(
        parsers.all_or_cidrs,
        None,
        "-i",
        "--istio-service-cidr",
        surprises=parsers.host_bits,
        about="Outbound destinations to capture: * for all, a list of CIDRs, or empty for none. "
        "By default *, unless -q is given.",
    )
    outbound_cidrs_exclude: Sequence[Network] = setting(
        parsers.cidrs,
        (),
        "-x",
        "--istio-service-exclude-cidr",
        surprises=parsers.host_bits,
        about="Outbound destinations that are not captured, whatever -q and -i say.",
    )
    outbound_ports: tuple[Ports, ...] = setting(
        parsers.ports,
        (),
        "-q",
        "--istio-outbound-ports",
        about="Outbound ports that are captured as well, whatever -i says.",
    )
    outbound_ports_exclude: tuple[Ports, ...] = setting(
        parsers.ports,
        (),
        "-o",
        "--istio-local-outbound-ports-exclude",
        about="Outbound ports that are never captured, whatever anything else says.",
    )
    virtual_interfaces: tuple[str, ...] = setting(
        parsers.interfaces,
        (),
        "-k",
        "--kube-virt-interfaces",
        about="Interfaces of virtual machines in the pod: what arrives there is treated as outbound.",
    )
    tproxy_mark: int = setting(
        parsers.mark, 1337, "-t", "--istio-inbound-tproxy-mark", about="The fwmark of TPROXY mode."
    )
    tproxy_route_table: int = setting(
        parsers.routing_table,
        133,
        "-r",
        "--istio-inbound-tproxy-route-table",
        about="The routing table of TPROXY mode.",
    )
    drop_invalid: bool = switch(
        "--drop-invalid",
        env=("INVALID_DROP",),
        about="Drop packets that conntrack cannot place (state INVALID) before they are delivered unredirected.",
    )
    dual_stack: bool = switch(
        "--dual-stack",
        env=("ISTIO_DUAL_STACK",),
        about="Capture IPv6 if the pod has any usable IPv6 address, not only if its first address is one.",
    )
    redirect_dns: bool = switch(
        "--redirect-dns",
        env=("ISTIO_META_DNS_CAPTURE",),
        about="Send DNS queries for the nameservers of resolv.conf to the proxy's resolver.",
    )
    capture_all_dns: bool = switch("--capture-all-dns", about="With --redirect-dns: whatever nameserver is asked.")
    resolv_conf: str = setting(
        parsers.text,
        "",
        "--resolv-conf",
        ours=True,
        about="The file that names the nameservers. By default /etc/resolv.conf; with --network-namespace that of the "
        "namespace, or of whoever lives in it.",
    )
    dns_capture_port: int = setting(parsers.port, 15053, "--dns-capture-port", ours=True, about="Port of the resolver.")
    dns_capture_address: tuple[IPv4Address | IPv6Address, ...] = setting(
        parsers.addresses,
        (),
        "--dns-capture-address",
        ours=True,
        about="Address of the resolver, at most one of each family. By default loopback.",
    )
    ipv6: str = setting(
        parsers.one_of("auto", "on", "off", "reject", empty=""),
        "",
        "--ipv6",
        ours=True,
        about="Whether IPv6 is captured: auto (if there is a usable address), on, off, or reject (not captured, and "
        "refused to all but the proxy). By default as istio-iptables: see --dual-stack.",
    )
    capture_ssh: bool = switch(
        "--capture-ssh",
        ours=True,
        about="Capture the port of the SSH session that runs this, and those on which sshd listens, as any other.",
    )
    allow_host: bool = switch(
        "--allow-host",
        ours=True,
        about="Run even in the namespace of a Kubernetes node, where it takes the traffic of the node itself.",
    )
    take_over: bool = switch(
        "--take-over",
        ours=True,
        about="Where the chains of another mesh are (Kuma, Linkerd, Consul, Open Service Mesh, Istio's ambient mode), "
        "or the tables in which Istio or Consul capture with nftables: remove them without a gap as ours come. "
        "Without it a run is refused there.",
    )
    precedence: str = setting(
        parsers.one_of("others", "ours", empty="others"),
        "others",
        "--precedence",
        ours=True,
        about="Who is asked first where rules of others stand in the same built-in chains: others (narrower rules that "
        "stand above ours keep what they take, and are named) or ours (our rules go above all that could take traffic "
        "from them). Rules that take everything are passed either way.",
    )
    exclude_uids: tuple[Uids, ...] = setting(
        parsers.uid_ranges,
        (),
        "--exclude-uids",
        ours=True,
        about="Users whose outbound traffic, DNS included, is not captured: uids or ranges such as 1000-2000.",
    )
    exclude_outbound_ports_for_uids: tuple[PortsOfUsers, ...] = setting(
        parsers.ports_of_users,
        (),
        "--exclude-outbound-ports-for-uids",
        ours=True,
        about="[PROTOCOL:]PORTS:UIDS, several separated by semicolons: outbound ports that are not captured for "
        "these users. tcp:80,443:1000-2000; without a protocol both, * for all ports.",
    )
    exclude_inbound_cidrs: Sequence[Network] = setting(
        parsers.cidrs,
        (),
        "--exclude-inbound-cidrs",
        surprises=parsers.host_bits,
        ours=True,
        about="Sources whose connections to the pod are not captured.",
    )
    udp: tuple[UdpPolicy, ...] = setting(
        parsers.udp_policies,
        (),
        "--udp",
        ours=True,
        about="PORT=POLICY, a list: what becomes of UDP that leaves the pod past the proxy, such as QUIC: leave, "
        "reject or drop. 443=reject makes clients fall back to TCP at once.",
    )
    drain: float | None = setting(
        parsers.duration,
        None,
        "--drain",
        ours=True,
        about="Where a removal or a change would reset captured connections: wait up to this duration for them to end, "
        "while new ones are captured no more. Without it they are reset at once, and counted.",
    )
    close_wait_timeout: float | None = setting(
        parsers.whole_seconds,
        None,
        "--close-wait-timeout",
        ours=True,
        about="Set conntrack's timeout for half-closed connections (net.netfilter.nf_conntrack_tcp_timeout_close_wait) "
        "to this duration. What prevents it is reported and is no failure.",
    )
    log_connections: str = setting(
        parsers.one_of("log", "nflog", empty=""),
        "",
        "--log-connections",
        ours=True,
        about="Log captured connections: log (kernel log) or nflog (see --nflog-group). Off by default.",
    )
    log_connections_rate: int = setting(
        parsers.rate,
        10,
        "--log-connections-rate",
        ours=True,
        about="At most so many of each direction in a second, 1 to 100.",
    )
    nflog_group: int = setting(
        parsers.nflog_group, 5, "--nflog-group", ours=True, about="The nfnetlink_log group, 1 to 65535."
    )
    owner_groups: All | Sequence[int | parsers.Name] = setting(
        parsers.owner_groups,
        ALL,
        env=("ISTIO_OUTBOUND_OWNER_GROUPS",),
        empty_counts=True,
        about="Groups whose outbound traffic is captured: * for all, a list of at most 64, or empty for none.",
    )
    owner_groups_exclude: tuple[int | parsers.Name, ...] = setting(
        parsers.owners,
        (),
        env=("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",),
        about="Groups whose outbound traffic is not captured. Only of use where ISTIO_OUTBOUND_OWNER_GROUPS is *.",
    )
    ipv4_loopback_cidr: Network = setting(
        parsers.ipv4_loopback,
        parsers.ipv4_loopback("127.0.0.1/32"),
        env=("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",),
        empty_counts=True,
        surprises=parsers.host_bits,
        about="What counts as loopback in IPv4, from 127.0.0.0/8 to one address.",
    )
    envoy_user: str = setting(
        parsers.text, "istio-proxy", env=("ENVOY_USER",), about="The user whose uid is the default of --proxy-uid."
    )
    network_namespace: str = setting(
        parsers.text,
        "",
        "--network-namespace",
        about="Work in this network namespace: a name of `ip netns`, a path, or a pid. Empty: the one we are in. "
        "apply takes it several times, and for - a list on stdin, one a line.",
    )
    force_iptables_binary: str = setting(
        parsers.one_of("nft", "legacy", "native", empty=""),
        "",
        "--force-iptables-binary",
        about="nft, legacy, or native, which does without iptables: use this backend instead of the one that the "
        "namespace and the kernel suggest.",
    )
    native_nftables: bool = switch(
        "--native-nftables", about="Write the rules with nft, into tables of our own, without iptables."
    )
    dry_run: bool = switch("-n", "--dry-run", about="Print what iptables-restore would be given; touch nothing.")
    dry_run_file: str = setting(
        parsers.text, "", env=("DRY_RUN_FILE_PATH",), about="With --dry-run: a file that gets a copy of the rules."
    )
    cleanup_only: bool = switch(
        "--cleanup-only", about="Remove what is ours, whatever settings put it there, and stop."
    )
    skip_rule_apply: bool = switch("--skip-rule-apply", about="Leave the rules alone.")
    run_validation: bool = switch("--run-validation", about="Prove with real connections that the rules capture.")
    probe_port: int = setting(
        parsers.port, 15002, "--iptables-probe-port", about="The port that --run-validation connects to."
    )
    probe_timeout: float = setting(
        parsers.duration, 5.0, "--probe-timeout", about="How long --run-validation waits: 500ms, 5s, 1m30s."
    )
    cni_mode: bool = switch("--cni-mode", about="Accepted for compatibility; changes nothing.")
    reconcile: bool = switch("--reconcile", about="Accepted for compatibility; every run does it.")
    force_apply: bool = switch("--force-apply", about="Accepted for compatibility; every run does it.")
    log_output_level: str = setting(
        parsers.log_level,
        "info",
        "--log_output_level",
        about="How much to say: debug, info, warn, error, fatal or none; or default:LEVEL.",
    )
    log_as_json: bool = switch("--log_as_json", about="One JSON object for each line of the log.")
    log_target: str = setting(
        parsers.text, "stderr", "--log_target", about="Accepted for compatibility; the log goes to stderr."
    )
    log_caller: str = setting(parsers.text, "", "--log_caller", about="Accepted for compatibility; changes nothing.")
    log_stacktrace_level: str = setting(
        parsers.text, "", "--log_stacktrace_level", about="Accepted for compatibility; changes nothing."
    )
    vklog: str = setting(parsers.text, "", "--vklog", about="Accepted for compatibility; changes nothing.")

    def __init__(
        self, values: Mapping[str, Any], origins: Mapping[str, Origin], warnings: Sequence[SettingsWarning] = ()
    ) -> None:
        for setting in DECLARED:
            self.__dict__[setting.name] = values.get(setting.name, setting.default)
        self.origins = {setting.name: origins.get(setting.name, Origin("default")) for setting in DECLARED}
        """Where each value came from."""
        self.warnings = tuple(warnings)
        """What was understood but will surprise."""

    @classmethod
    def load(cls, argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
        """From a command line (without the program's name) and an environment.

        A flag wins over a variable, a variable over the file of --config, that over the default. Raises BadSettings
        with everything that is wrong with them, after reading it all.
        """
        return cls.from_arguments(*read_argv(argv, FLAGS, switches=SWITCHES), environ)

    @classmethod
    def from_arguments(
        cls,
        arguments: Sequence[Argument],
        unreadable: Sequence[Refusal],
        environ: Mapping[str, str],
        uses: AbstractSet[str] | None = None,
    ) -> Settings:
        """The same for a command line that was split into its flags already.

        Only the settings that the command `uses` are read; by default all, of a removal those that it uses. One that
        looks or removes does so whatever was meant for the log: what of that cannot be understood is a warning.
        """
        given = {DECLARED_BY_FLAG[argument.flag].name: argument for argument in arguments}
        filed, wrong = said_in_file(given.get("config"), environ)
        refusals = [*unreadable, *wrong]
        if uses is None and asks_for(DECLARED_BY_NAME["cleanup_only"], given.get("cleanup_only"), environ, filed):
            uses = REMOVING
        is_lenient = uses is not None and uses <= UNRESOLVED
        values: dict[str, Any] = {}
        origins: dict[str, Origin] = {}
        warnings: list[SettingsWarning] = []
        lists: list[Lists] = []
        for setting in DECLARED:
            if uses is not None and setting.name not in uses:
                continue
            argument = given.get(setting.name)
            if argument is None:
                warnings += links(setting, environ)
            origin = origin_of(setting, argument, environ, filed)
            if origin is None or (text := origin.text) is None:
                continue
            try:
                values[setting.name], origins[setting.name], surprises = read(setting, origin, text, lists)
                warnings += (SettingsWarning("host-bits", setting.name, it) for it in surprises)
            except ValueError as refused:
                found = [Refusal(str(origin), text, reason) for reason in refused.args]
                if is_lenient and setting.name in OF_THE_LOG:
                    warnings.append(SettingsWarning("left-out", setting.name, f"{found[0]}: it is left out of account"))
                else:
                    refusals += found
        if refusals:
            raise BadSettings(refusals)
        return cls(values, origins, warnings)

    def only(self, names: AbstractSet[str]) -> Settings:
        """These settings, as if the others were not given."""
        return Settings({name: getattr(self, name) for name in names}, {name: self.origins[name] for name in names})

    @property
    def nameservers_file(self) -> str:
        """The file to read nameservers from; none if no setting needs them."""
        if not self.redirect_dns or self.capture_all_dns:
            return ""
        return self.resolv_conf or netns.resolv_conf(self.network_namespace)

    def given(self) -> Iterator[tuple[Declaration, Any, Origin]]:
        """The settings that somebody set, with value and origin."""
        for setting in DECLARED:
            origin = self.origins[setting.name]
            if origin.kind != "default":
                yield setting, getattr(self, setting.name), origin


def origin_of(
    setting: Declaration,
    argument: Argument | None,
    environ: Mapping[str, str],
    filed: Mapping[str, Origin] | None = None,
) -> Origin | None:
    """The place that decides this setting, if it was set at all; `filed` is what the file of --config says.

    An empty variable counts as not set, as in istio-iptables, but where `empty_counts`; so does a link to a Service.
    """
    if argument is not None:
        kind = "annotation" if argument.annotation else "flag"
        return Origin(kind, argument.annotation or argument.flag, argument.value)
    for name in setting.env:
        text = environ.get(name)
        if (text and not linked_service(name, text)) or (text == "" and setting.empty_counts):
            return Origin("environment", name, text)
    return filed.get(setting.name) if filed else None


def read(setting: Declaration, origin: Origin, text: str, lists: list[Lists]) -> tuple[Any, Origin, Iterable[str]]:
    """What a text means, where it comes from, and what in it will surprise. Raises ValueError.

    A list may be in a file; `lists` gets what has read all such files, for there is one standard input.
    """
    if text[:1] != "@" or not setting.is_list:
        value = setting.read(text)
        return value, origin, (f"{origin}: {it}" for it in setting.surprises(text, value))
    if not lists:
        from capture.lists.files import Lists

        lists.append(Lists())
    value, surprises = lists[0].read(str(origin), text, setting.separator, setting.read, setting.surprises)
    return value, origin.but(file="standard input" if text == "@-" else text[1:]), surprises


def said_in_file(config: Argument | None, environ: Mapping[str, str]) -> tuple[dict[str, Origin], list[Refusal]]:
    """What the file of --config says, by setting, and everything that is wrong in it; nothing where none is named."""
    named = origin_of(DECLARED_BY_NAME["config"], config, environ)
    if named is None or not named.text:
        return {}, []
    from capture.config.given import given

    texts, wrong = given(named.text, str(named), FILED)
    return {name: Origin("file", f"{named.text}: {name}", text) for name, text in texts.items()}, wrong


def asks_for(
    switch: Declaration, argument: Argument | None, environ: Mapping[str, str], filed: Mapping[str, Origin]
) -> bool:
    """Whether a switch is on, as far as it can be understood."""
    origin = origin_of(switch, argument, environ, filed)
    return origin is not None and parsers.GO_BOOLEANS.get(origin.text or "", False)


def asks_for_json(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether the log is to be JSON, as far as can be told of settings that were refused."""
    said = [word for word in argv if word.partition("=")[0] == "--log_as_json"] or [environ.get("LOG_AS_JSON", "0")]
    return parsers.GO_BOOLEANS.get(said[-1].rpartition("=")[2], said[-1] == "--log_as_json")


def linked_service(name: str, text: str) -> str:
    """The Service that a variable is a link to; empty if it is none.

    Kubernetes gives every container `NAME_PORT=tcp://ADDRESS:PORT` for each Service around it, as Docker does for a
    link, and one may be named envoy.
    """
    protocol, is_url, rest = text.partition("://")
    host, _, port = rest.rpartition(":")
    is_link = name.endswith("_PORT") and is_url and protocol in ("tcp", "udp", "sctp") and host and port.isdecimal()
    return name.removesuffix("_PORT").lower().replace("_", "-") if is_link else ""


def links(setting: Declaration, environ: Mapping[str, str]) -> Iterator[SettingsWarning]:
    """A warning for each variable of a setting that is a link to a Service."""
    for name in setting.env:
        text = environ.get(name, "")
        service = linked_service(name, text)
        if service:
            link = f"environment {name} {quoted(text)} is a link to the Service {quoted(service)}"
            what = f"{link}, and no setting: it is passed over"
            yield SettingsWarning(
                "passed-over", setting.name, what, "enableServiceLinks: false in the pod spec keeps it away"
            )


DECLARED: tuple[Declaration, ...] = tuple(value for value in vars(Settings).values() if isinstance(value, Declaration))
"""Every setting, in the order of the help."""
VARIABLES = tuple(dict.fromkeys(name for setting in DECLARED for name in setting.env))
"""Every variable that is read."""
FILED = tuple(setting for setting in DECLARED if setting.name != "config")
"""What a file may say."""
DECLARED_BY_NAME = {setting.name: setting for setting in DECLARED}
DECLARED_BY_FLAG = {flag: setting for setting in DECLARED for flag in (setting.short, setting.long) if flag}
FLAGS = frozenset(DECLARED_BY_FLAG)
SWITCHES = frozenset(flag for flag, setting in DECLARED_BY_FLAG.items() if setting.is_switch)

OF_THE_LOG = frozenset({"log_output_level", "log_as_json", "log_target", "log_caller", "log_stacktrace_level", "vklog"})
LOOKING = OF_THE_LOG | {"network_namespace", "config"}
"""What a command uses that tells what is there, whatever is meant."""
BACKEND = frozenset({"force_iptables_binary", "native_nftables"})
REMOVING = LOOKING | {"cleanup_only", "dry_run", "dry_run_file", "drain"}
"""What a removal uses."""
UNRESOLVED = REMOVING | BACKEND
"""Of these none is looked up on the host: a command that uses no others leaves out what is refused, and says so."""
MEANING = frozenset(DECLARED_BY_NAME) - {
    "dry_run",
    "dry_run_file",
    "cleanup_only",
    "skip_rule_apply",
    "run_validation",
    "probe_port",
    "probe_timeout",
    "close_wait_timeout",
    "drain",
    "cni_mode",
    "reconcile",
    "force_apply",
}
"""What a command uses that tells what is meant, and does not do it."""
