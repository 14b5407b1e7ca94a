"""What older istio-iptables left in built-in chains: known by its shape and removed, or named with what removes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.netns.test_apply import REFUSED, sabotaged
from tests.rig.pod import PROXY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Pod

NAMESERVER = "10.96.0.10"
SETTINGS = ["-u", "1337", "-d", "15090,15021,15020"]

CHAINS = """\
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
{direct}-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -p tcp -m tcp ! --dport 53 -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT {to}-p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
DNS = """\
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -p udp -m udp --dport 53 -m owner --gid-owner 1337 -j RETURN
-A OUTPUT {to}-p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
"""
ZONES = """\
*raw
-A PREROUTING {answers}-p udp -m udp --sport 53 -j CT --zone 1
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
-A OUTPUT -p udp -m udp --dport 53 -m owner --gid-owner 1337 -j CT --zone 1
-A OUTPUT -p udp -m udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2
-A OUTPUT {to}-p udp -m udp --dport 53 -j CT --zone 2
COMMIT
"""


def with_dns(to: str, answers: str) -> str:
    return ZONES.format(to=to, answers=answers) + CHAINS.format(direct=DNS.format(to=to), to=to)


WITH_DNS = {
    "1.10, answers by destination": with_dns(f"-d {NAMESERVER}/32 ", f"-d {NAMESERVER}/32 "),
    "1.16, answers by source": with_dns(f"-d {NAMESERVER}/32 ", f"-s {NAMESERVER}/32 "),
    "1.20, every nameserver": with_dns("", ""),
}


def install(pod: Pod, backend: str, text: str, *, version: int = 4) -> None:
    """As istio-iptables did: restore into tables that nobody used, or add to what is there."""
    program = f"{'iptables' if version == 4 else 'ip6tables'}-{backend}-restore"
    pod.inside.output(program, "--noflush", text=text)


def rules(pod: Pod, backend: str) -> list[str]:
    return [line for version in (4, 6) for line in pod.saved(backend, version=version) if line.startswith("-A")]


@pytest.mark.parametrize("text", WITH_DNS.values(), ids=list(WITH_DNS))
def test_dns_works_when_an_older_install_is_removed(pod: Pod, backend: str, text: str) -> None:
    """Queries were captured; then everything is gone, and they are answered by the nameserver itself."""
    pod.open_listeners()
    install(pod, backend, text)
    assert str(pod.dial(NAMESERVER, 53, proto="udp")) == "pod:15053"
    pod.applied("clean")
    assert rules(pod, backend) == []
    assert str(pod.dial(NAMESERVER, 53, proto="udp")) == "ext:53"
    assert str(pod.dial(NAMESERVER, 53, proto="udp", uid=PROXY)) == "ext:53"


@pytest.mark.parametrize("text", WITH_DNS.values(), ids=list(WITH_DNS))
@pytest.mark.parametrize("dns", [True, False], ids=["with DNS", "without"])
def test_a_run_over_an_older_install_is_as_one_in_a_new_pod(pod: Pod, backend: str, text: str, *, dns: bool) -> None:
    """The same rules to the letter, and DNS goes where the settings say: to the proxy, or past it."""
    pod.open_listeners()
    pod.inside.set_resolv_conf(f"nameserver {NAMESERVER}\n")
    settings = [*SETTINGS, f"--force-iptables-binary={backend}", *(["--redirect-dns"] if dns else [])]
    pod.applied(*settings)
    new = rules(pod, backend)
    pod.applied("clean")
    install(pod, backend, text)
    assert pod.capture("verify", *settings).status == 4
    pod.applied(*settings)
    assert sorted(rules(pod, backend)) == sorted(new)
    assert pod.capture("verify", *settings).status == 0
    assert str(pod.dial(NAMESERVER, 53, proto="udp")) == ("pod:15053" if dns else "ext:53")
    assert str(pod.dial(NAMESERVER, 53, proto="udp", uid=PROXY)) == "ext:53"
    assert str(pod.dial(NAMESERVER, 53)) == ("pod:15053" if dns else "pod:15001")


AGENT_OF_1_8 = """\
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -p udp -m udp --dport 53 -m owner --gid-owner 1337 -j RETURN
-A OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:15053
-A POSTROUTING -p udp -m udp --dport 15053 -j SNAT --to-source 127.0.0.1
-A PREROUTING -i virt0 -d 10.96.0.0/12 -j ISTIO_REDIRECT
-A PREROUTING -i virt0 -j RETURN
"""


def test_dns_of_1_8_and_interfaces_of_kubevirt(pod: Pod, backend: str) -> None:
    """The agent's queries were sent to another address and from another one; what is like it and not the same stays."""
    pod.open_listeners()
    install(pod, backend, CHAINS.format(direct=AGENT_OF_1_8, to=""))
    theirs = {
        "nat": [
            "-A PREROUTING -i virt1 -j RETURN",
            "-A OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:15054",
            "-A POSTROUTING -s 10.0.0.0/8 -p udp -m udp --dport 15053 -j SNAT --to-source 127.0.0.1",
            "-A POSTROUTING -p udp -m udp --dport 15053 -j SNAT --to-source 127.0.0.2",
        ]
    }
    add(pod, backend, theirs)
    told = pod.applied("clean").stdout
    assert sorted(rules(pod, backend)) == sorted(theirs["nat"])
    assert len(re.findall(r"to remove it: `(.*?)`", told)) == 1
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-D", *theirs["nat"][1].split()[1:])
    assert str(pod.dial(NAMESERVER, 53, proto="udp")) == "ext:53"


V6 = """\
*raw
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
COMMIT
*nat
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -p udp -m udp --dport 53 -m owner --gid-owner 888 -j RETURN
-A OUTPUT -p udp -m udp --dport 53 -m owner ! --gid-owner 202 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 888 -j RETURN
-A ISTIO_OUTPUT -m owner ! --gid-owner 202 -j RETURN
COMMIT
"""
"""Where no nameserver is IPv6, nothing is redirected; groups that are captured and groups that are not."""
TRANSPARENT = """\
*mangle
:ISTIO_DIVERT - [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_TPROXY - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN
-A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
-A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --gid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY
-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff
COMMIT
"""
FROM_ITSELF = "-A OUTPUT -s 127.0.0.1/32 ! -d 127.0.0.1/32 -p tcp -j MARK --set-xmark 0x539/0xffffffff"
ANYBODYS = {
    "mangle": [
        "-A PREROUTING -m conntrack --ctstate INVALID -j DROP",
        "-A PREROUTING -i eth1 -j RETURN",
        "-A OUTPUT -o eth1 -j RETURN",
    ],
    "nat": ["-A PREROUTING -i eth1 -j RETURN", "-A PREROUTING -i net1 -j RETURN", "-A OUTPUT -o eth1 -j RETURN"],
}
"""What istio-iptables made for --drop-invalid, -c and -k; others have such rules, too."""
LOOK_ALIKES = {
    "raw": [
        "-A OUTPUT -d 192.0.2.0/24 -p udp -m udp --dport 53 -j CT --zone 2",
        "-A OUTPUT -p udp -m udp --dport 5353 -j CT --zone 2",
        "-A PREROUTING -p udp -m udp --sport 53 -j CT --zone 7",
    ],
    "nat": [
        "-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 101 -j RETURN",
        "-A OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353",
        "-A OUTPUT -d 192.0.2.0/24 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
    ],
    "mangle": ["-A OUTPUT -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53b/0xffffffff"],
}


def add(pod: Pod, backend: str, rules_of: dict[str, list[str]]) -> None:
    for table, lines in rules_of.items():
        for line in lines:
            pod.inside.output(f"iptables-{backend}", "-t", table, *line.split())


def test_ipv6_and_groups_of_an_older_install(pod: Pod, backend: str) -> None:
    """The bypasses of the proxy and of groups go, although nothing beside them is redirected."""
    install(pod, backend, V6, version=6)
    pod.applied("clean")
    assert rules(pod, backend) == []


def test_marks_of_an_older_tproxy(pod: Pod, backend: str) -> None:
    """They go with the chains; the ip rule and the route are named with the commands that remove them."""
    install(pod, backend, TRANSPARENT)
    pod.inside.ip("rule", "add", "fwmark", "1337", "lookup", "133")
    pod.inside.ip("route", "add", "local", "default", "dev", "lo", "table", "133")
    told = pod.applied("clean").stdout
    assert rules(pod, backend) == []
    install(
        pod, backend, TRANSPARENT[: TRANSPARENT.index("-A PREROUTING")] + TRANSPARENT[TRANSPARENT.index("-A ISTIO") :]
    )
    add(pod, backend, {"mangle": [FROM_ITSELF, FROM_ITSELF.replace("539", "53b")]})
    pod.applied("clean")
    assert rules(pod, backend) == [FROM_ITSELF.replace("539", "53b")]
    add(pod, backend, {"mangle": [FROM_ITSELF.replace("539", "53b").replace("-A", "-D")]})
    for command in (
        "ip rule del priority 32765 fwmark 0x539 lookup 133",
        "ip route del local default dev lo table 133",
    ):
        assert f"to remove it: `{command}`" in told
        pod.inside.output(*command.split())
    assert "lookup 133" not in pod.applied("clean").stdout
    install(pod, backend, TRANSPARENT)
    pod.applied("-u", "1337", "-m", "TPROXY", f"--force-iptables-binary={backend}")
    assert not any(line.startswith("-A OUTPUT") and "ISTIO" not in line for line in rules(pod, backend))
    assert pod.capture("verify", "-u", "1337", "-m", "TPROXY").status == 0


def test_what_anybody_could_have_made_is_named_with_its_remedy(pod: Pod, backend: str) -> None:
    """It stays, and what is printed can be typed; where nothing of ours is, nobody is told of it."""
    install(pod, backend, CHAINS.format(direct="", to=""))
    add(pod, backend, ANYBODYS)
    theirs = [line for lines in ANYBODYS.values() for line in lines]
    told = pod.applied("clean").stdout
    assert sorted(rules(pod, backend)) == sorted(theirs)
    commands = re.findall(r"to remove it: `(.*?)`", told)
    assert len(commands) == len(theirs)
    assert "to remove it" not in pod.applied("clean").stdout
    for command in commands:
        pod.inside.output("sh", "-c", command)
    assert rules(pod, backend) == []


def test_a_removal_by_flag_warns_of_what_anybody_could_have_made(pod: Pod, backend: str) -> None:
    """`--cleanup-only` has a warning for each, an unsigned ip rule of TPROXY and its route among them, with a command
    that removes it."""
    install(pod, backend, TRANSPARENT)
    pod.inside.ip("rule", "add", "fwmark", "1337", "lookup", "133")
    pod.inside.ip("route", "add", "local", "default", "dev", "lo", "table", "133")
    add(pod, backend, ANYBODYS)
    told = pod.applied("--cleanup-only").stderr
    warned = [line for line in told.splitlines() if "\twarn\tLeft alone" in line]
    commands = [command for line in warned for command in re.findall(r"to remove it: `(.*?)`", line)]
    assert len(commands) == len(warned) == sum(map(len, ANYBODYS.values())) + 2
    for command in commands:
        pod.inside.output("sh", "-c", command)
    assert rules(pod, backend) == []
    assert "lookup 133" not in pod.inside.output("ip", "rule")
    assert pod.inside.output("ip", "route", "show", "table", "all", "type", "local", "default") == ""


def test_what_only_its_shape_speaks_for_is_named_with_its_remedy(pod: Pod, backend: str) -> None:
    """A removal that finds no chain of ours leaves DNS rules alone, and says how to remove them; a run takes them."""
    install(pod, backend, WITH_DNS["1.10, answers by destination"])
    for hook in ("PREROUTING", "OUTPUT"):
        pod.inside.output(f"iptables-{backend}", "-t", "nat", "-D", hook, "1")
    for chain in ("ISTIO_OUTPUT", "ISTIO_INBOUND", "ISTIO_IN_REDIRECT", "ISTIO_REDIRECT"):
        pod.inside.output(f"iptables-{backend}", "-t", "nat", "-F", chain)
        pod.inside.output(f"iptables-{backend}", "-t", "nat", "-X", chain)
    before = rules(pod, backend)
    assert len(before) == 9
    told = pod.applied("clean").stdout
    assert rules(pod, backend) == before
    assert len(re.findall(r"to remove it: `(.*?)`", told)) == 9
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    assert not set(before) & set(rules(pod, backend))


def test_rules_of_others_that_look_alike_stay(pod: Pod, backend: str) -> None:
    """Through a run and a removal over an older install, in their order."""
    install(pod, backend, WITH_DNS["1.20, every nameserver"])
    add(pod, backend, LOOK_ALIKES)
    theirs = [line for line in rules(pod, backend) if any(line in lines for lines in LOOK_ALIKES.values())]
    assert len(theirs) == 7
    pod.applied(*SETTINGS, "--redirect-dns", "--capture-all-dns", f"--force-iptables-binary={backend}")
    assert [line for line in rules(pod, backend) if line in theirs] == theirs
    pod.applied("clean")
    assert rules(pod, backend) == theirs


def test_a_run_that_fails_puts_an_older_install_back(pod: Pod, backend: str, tmp_path: Path) -> None:
    """Every rule in its place, also in built-in chains, between those of others."""
    install(pod, backend, WITH_DNS["1.16, answers by source"])
    add(pod, backend, LOOK_ALIKES)
    pod.inside.output(f"iptables-{backend}", "-t", "nat", "-I", "OUTPUT", "3", "-d", "192.0.2.1", "-j", "ACCEPT")
    before = pod.meaning()
    path = sabotaged(tmp_path, f"iptables-{backend}-restore", f"s/^COMMIT$/{REFUSED}\\nCOMMIT/", table="nat")
    result = pod.capture(*SETTINGS, "--redirect-dns", "-m", "TPROXY", f"--force-iptables-binary={backend}", path=path)
    assert result.status == 1, result.stderr
    assert "the namespace is as it was" in result.stderr
    assert pod.meaning() == before
