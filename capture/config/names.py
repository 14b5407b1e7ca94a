"""What other tools call our settings, for those who bring their configuration along."""

from __future__ import annotations

from capture.errors import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Setting(Protocol):
        """What is asked here of a declaration."""

        name: str
        short: str
        long: str
        env: tuple[str, ...]

        @property
        def is_list(self) -> bool: ...
        @property
        def is_duration(self) -> bool: ...
        @property
        def separator(self) -> str: ...


KUMA = {
    "proxy_uid": "kumaDPUser --kuma-dp-user --kuma-dp-uid owner.uid",
    "proxy_port": "redirect.outbound.port --redirect-outbound-port",
    "inbound_capture_port": "redirect.inbound.port --redirect-inbound-port redirect.inbound.portIPv6",
    "inbound_ports": "redirect.inbound.enabled redirect.inbound.includePorts --redirect-inbound",
    "inbound_ports_exclude": "redirect.inbound.excludePorts --exclude-inbound-ports",
    "exclude_inbound_cidrs": "redirect.inbound.excludePortsForIPs --exclude-inbound-ips",
    "outbound_cidrs": "redirect.outbound.enabled",
    "outbound_ports": "redirect.outbound.includePorts",
    "outbound_ports_exclude": "redirect.outbound.excludePorts --exclude-outbound-ports",
    "outbound_cidrs_exclude": "redirect.outbound.excludePortsForIPs --exclude-outbound-ips",
    "exclude_outbound_ports_for_uids": "redirect.outbound.excludePortsForUIDs",
    "redirect_dns": "redirect.dns.enabled",
    "capture_all_dns": "redirect.dns.captureAll --redirect-all-dns-traffic",
    "dns_capture_port": "redirect.dns.port --redirect-dns-port",
    "resolv_conf": "redirect.dns.resolvConfigPath",
    "virtual_interfaces": "redirect.vnet.networks --vnet",
    "ipv6": "ipFamilyMode --ip-family-mode",
    "drop_invalid": "dropInvalidPackets --drop-invalid-packets",
    "log_connections": "log.enabled log.level --iptables-logs",
    "log_output_level": "verbose",
    "precedence": "redirect.inbound.insertRedirectInsteadOfAppend redirect.outbound.insertRedirectInsteadOfAppend",
    "": "ebpf wait waitInterval retry retry.maxRetries retry.sleepBetweenRetries storeFirewalld comments "
    "comments.disabled iptablesExecutables redirect.namePrefix redirect.dns.skipConntrackZoneSplit "
    "redirect.dns.upstreamTargetChain redirect.inbound.excludePortsForUIDs --max-retries",
}
"""Of `kumactl install transparent-proxy`: the names in its configuration, and flags that differ from ours."""
ISTIO = {
    "proxy_port": "proxyListenPort",
    "inbound_capture_port": "proxyInboundListenPort",
    "interception_mode": "interceptionMode InboundInterceptionMode",
    "inbound_ports": "includeInboundPorts InboundPortsInclude",
    "inbound_ports_exclude": "excludeInboundPorts InboundPortsExclude",
    "outbound_ports": "includeOutboundPorts OutboundPortsInclude",
    "outbound_ports_exclude": "excludeOutboundPorts OutboundPortsExclude",
    "outbound_cidrs": "includeOutboundIPRanges includeIPRanges OutboundIPRangesInclude",
    "outbound_cidrs_exclude": "excludeOutboundIPRanges excludeIPRanges OutboundIPRangesExclude",
    "virtual_interfaces": "kubevirtInterfaces RerouteVirtualInterfaces",
    "exclude_interfaces": "",
    "tproxy_mark": "InboundTProxyMark",
    "tproxy_route_table": "InboundTProxyRouteTable",
    "owner_groups": "OwnerGroupsInclude OutboundOwnerGroupsInclude outboundOwnerGroups",
    "owner_groups_exclude": "OutboundOwnerGroupsExclude",
    "ipv4_loopback_cidr": "HostIPv4LoopbackCidr",
    "dual_stack": "ISTIO_DUAL_STACK",
    "ipv6": "EnableIPv6 EnableInboundIPv6",
    "redirect_dns": "DNS_CAPTURE dnsCapture",
    "cni_mode": "HostFilesystemPodNetwork",
    "": "DNSServersV4 DNSServersV6 HostIP TraceLogging IptablesTraceLogging",
}
"""Of istio-iptables' own configuration, of annotations (behind their slash), of Helm's values, and of the mesh's."""
LINKERD = {
    "inbound_capture_port": "--incoming-proxy-port",
    "proxy_port": "--outgoing-proxy-port",
    "inbound_ports": "--ports-to-redirect",
    "inbound_ports_exclude": "--inbound-ports-to-ignore ignoreInboundPorts skip-inbound-ports",
    "outbound_ports_exclude": "--outbound-ports-to-ignore ignoreOutboundPorts skip-outbound-ports",
    "exclude_inbound_cidrs": "--subnets-to-ignore skip-subnets",
    "dry_run": "--simulate",
    "network_namespace": "--netns",
    "force_iptables_binary": "--iptables-mode iptablesMode",
    "close_wait_timeout": "--timeout-close-wait-secs closeWaitTimeoutSecs",
    "log_as_json": "--log-format logFormat",
    "log_output_level": "--log-level logLevel",
}
"""Of proxy-init: its flags, and what its chart and annotations call them."""


def plain(name: str) -> str:
    """A name without what makes the difference between a flag, a variable, and camel's humps."""
    return "".join(c for c in name.rpartition("/")[2].lower() if c.isalnum() or c == ".")


OTHERS = {
    plain(word): (tool, ours)
    for tool, names in (("Linkerd", LINKERD), ("Kuma", KUMA), ("Istio", ISTIO))
    for ours, words in names.items()
    for word in words.split()
}
"""By the plain name: whose it is, and our setting, or empty if we have none."""


def why_unknown(name: str, declared: Sequence[Setting]) -> str:
    """Why a name in a file is none of ours, and which is meant, as the end of a sentence."""
    bare = plain(name)
    for setting in declared:
        if name in (setting.short, setting.long) or (setting.long and name == setting.long.lstrip("-")):
            return f"is the name of a flag; in a file it is {setting.name}"
        if name in setting.env:
            return f"is the name of a variable; in a file it is {setting.name}"
        if bare == plain(setting.name):
            return f"is not known; did you mean {setting.name}?"
    parts = bare.split(".")
    for first in range(len(parts)):
        tool, ours = OTHERS.get(".".join(parts[first:]), ("", ""))
        if ours:
            return f"is {tool}'s name; here it is {ours}"
        if tool or OTHERS.get(".".join(parts[: first + 1]), ("", "ours"))[1] == "":
            return f"is {tool or 'Kuma'}'s, and there is no setting for it here"
    meant = {plain(word): setting.name for setting in declared for word in (setting.long, *setting.env, setting.name)}
    near = did_you_mean(bare, meant).removeprefix("; did you mean ").rstrip("?")
    return f"is not known; did you mean {meant[near]}?" if near else "is not known; `capture schema config` lists them"
