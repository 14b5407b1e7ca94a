"""The settings for readers: by what they are about, and what each takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capture.settings import parsers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.settings.declared import Declaration

GROUPS: dict[str, tuple[str, ...]] = {
    "The proxy": (
        "proxy_port",
        "inbound_capture_port",
        "inbound_tunnel_port",
        "proxy_uid",
        "proxy_gid",
        "envoy_user",
    ),
    "Inbound traffic": (
        "inbound_ports",
        "inbound_ports_exclude",
        "exclude_inbound_cidrs",
        "capture_ssh",
        "interception_mode",
        "tproxy_mark",
        "tproxy_route_table",
        "drop_invalid",
    ),
    "Outbound traffic": (
        "outbound_ports_exclude",
        "outbound_cidrs_exclude",
        "outbound_ports",
        "outbound_cidrs",
        "exclude_uids",
        "exclude_outbound_ports_for_uids",
        "owner_groups",
        "owner_groups_exclude",
        "ipv4_loopback_cidr",
        "udp",
    ),
    "Interfaces": ("exclude_interfaces", "exclude_inbound_interfaces", "virtual_interfaces"),
    "DNS": ("redirect_dns", "capture_all_dns", "dns_capture_port", "dns_capture_address", "resolv_conf"),
    "IPv6": ("dual_stack", "ipv6"),
    "What a run does": (
        "config",
        "dry_run",
        "dry_run_file",
        "cleanup_only",
        "network_namespace",
        "allow_host",
        "take_over",
        "precedence",
        "force_iptables_binary",
        "native_nftables",
        "drain",
        "close_wait_timeout",
        "reconcile",
        "force_apply",
        "cni_mode",
    ),
    "Validation": ("run_validation", "skip_rule_apply", "probe_port", "probe_timeout"),
    "Logs": (
        "log_output_level",
        "log_as_json",
        "log_connections",
        "log_connections_rate",
        "nflog_group",
        "log_target",
        "log_caller",
        "log_stacktrace_level",
        "vklog",
    ),
}
"""The settings by what they are about, in the order in which a reader will look for them."""
THE_REST = "Other settings"

VALUES: dict[Any, str] = {
    parsers.port: "PORT",
    parsers.mark: "MARK",
    parsers.routing_table: "TABLE",
    parsers.duration: "DURATION",
    parsers.whole_seconds: "DURATION",
    parsers.rate: "NUMBER",
    parsers.nflog_group: "GROUP",
    parsers.log_level: "LEVEL",
    parsers.ipv4_loopback: "CIDR",
    parsers.ports: "PORT[,PORT…]",
    parsers.all_or_ports: "*|PORT[,PORT…]",
    parsers.cidrs: "CIDR[,CIDR…]",
    parsers.all_or_cidrs: "*|CIDR[,CIDR…]",
    parsers.interfaces: "NAME[,NAME…]",
    parsers.owners: "GID[,GID…]",
    parsers.owner_groups: "*|GID[,GID…]",
    parsers.uid_ranges: "UID[-UID][,…]",
    parsers.ports_of_users: "[PROTOCOL:]PORTS:UIDS[;…]",
    parsers.udp_policies: "PORT=POLICY[,…]",
    parsers.addresses: "IP[,IP]",
    parsers.text: "TEXT",
}
"""How the value of a setting is written in help, by its reader. Those of one word out of several know their words."""
VALUES_BY_NAME = {
    "proxy_uid": "UID[,UID…]",
    "config": "FILE|-",
    "resolv_conf": "FILE",
    "dry_run_file": "FILE",
    "network_namespace": "NAME|PATH|PID",
    "envoy_user": "USER",
}
"""Where the reader does not tell."""


def grouped(settings: Iterable[Declaration]) -> Iterator[tuple[str, list[Declaration]]]:
    """These settings by what they are about, without the groups in which there is none."""
    named = {setting.name: setting for setting in settings}
    for title, names in GROUPS.items():
        members = [named.pop(name) for name in names if name in named]
        if members:
            yield title, members
    if named:
        yield THE_REST, list(named.values())


def value_of(setting: Declaration) -> str:
    """What stands behind a setting's flag, in help; empty for a switch."""
    if setting.is_switch:
        return ""
    return VALUES_BY_NAME.get(setting.name) or VALUES.get(setting.read) or "|".join(parsers.words_of(setting.read))
