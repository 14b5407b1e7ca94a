"""TPROXY beside ip rules and routes of others: ours is asked first, whatever they ask for, or a run says why not."""

from __future__ import annotations

import os
import socket
import struct
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from capture.errors import DEPENDS
from capture.netlink import messages, rtnetlink
from rules.addresses import ip_address
from rules.netfilter.values import Family
from rules.routing.policy import Flow, Policy
from tests.rig import Call, Pod
from tests.rig.namespace import entered
from tests.rig.pod import ADDRESSES, GATEWAY, OUTSIDE, PROXY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TPROXY = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "TPROXY", "--dual-stack"]
CLIENTS = {4: ("192.0.2.77", GATEWAY[4]), 6: ("2001:db8:7::77", GATEWAY[6])}
"""One behind the gateway and one on the link."""
NETWORKS = {4: "192.0.2.0/24", 6: "2001:db8:7::/48"}
OTHERS = {
    "by source": ["pref 100 from {pod} lookup 200"],
    "by source, from a network": ["pref 5000 from {pod}/24 lookup 200"],
    "as early as can be": ["pref 1 from {pod} lookup 200"],
    "wireguard": ["not fwmark 51820 lookup 200", "table main suppress_prefixlength 0"],
    "a device of a VRF": ["pref 1000 l3mdev", "pref 1001 iif lo lookup 200"],
    "a part of our mark": ["pref 100 fwmark 0x539/0xff lookup 200"],
    "our mark, another table": ["pref 100 fwmark 0x539 lookup 200"],
    "any mark of a kind": ["pref 100 fwmark 0/0x10000 lookup 200"],
    "what is sent from here": ["pref 100 iif lo lookup 200"],
    "by destination": ["pref 100 to {network} lookup 200", "pref 101 to {gateway} lookup 200"],
    "by user": ["pref 100 uidrange 0-0 lookup 200"],
    "by protocol": ["pref 100 ipproto tcp lookup 200"],
    "by port": ["pref 100 ipproto tcp sport 8080 lookup 200"],
    "without a priority": ["from {pod} lookup 200", "iif lo lookup 200"],
    "over our place": ["pref 100 goto 32766"],
    "all but one protocol": ["pref 100 not ipproto udp lookup 200"],
}
"""What takes the answers that TPROXY needs, if it is asked before ours; for both families."""
HARMLESS = {
    "another mark": ["pref 100 fwmark 0xf247 lookup 200"],
    "all but our mark": ["pref 100 not fwmark 0x539 lookup 200"],
    "another part of the mark": ["pref 100 fwmark 0x200/0x300 lookup 200"],
    "another protocol": ["pref 100 ipproto udp lookup 200"],
    "addresses of this host": ["pref 100 from {pod} lookup local"],
}
"""What no packet with our mark follows."""


def plant(pod: Pod, rules: Iterable[str], verb: str = "add") -> None:
    """Add these rules in both families, where the table 200 leads to the gateway."""
    for version in (4, 6):
        gateway = GATEWAY[version]
        pod.inside.ip(f"-{version}", "route", "replace", "default", "via", gateway, "table", "200")
        for rule in rules:
            words = rule.format(pod=ADDRESSES[version], network=NETWORKS[version], gateway=gateway).split()
            pod.inside.ip(f"-{version}", "rule", verb, *words)


def rules(pod: Pod) -> list[str]:
    return [line for version in ("-4", "-6") for line in pod.inside.output("ip", version, "rule").splitlines()]


def ours(pod: Pod) -> list[str]:
    return [line for line in rules(pod) if "proto 133" in line]


def answers_stay(pod: Pod) -> dict[str, str]:
    """Where calls land that a proxy makes with its client's address, each by that address; the answers go there."""
    calls = [
        Call(pod.inside, ADDRESSES[version], 8080, source=client, mark=1337)
        for version in (4, 6)
        for client in CLIENTS[version]
    ]
    return {call.source or "": str(landing) for call, landing in zip(calls, pod.land(calls), strict=True)}


ALL_STAY = {client: "pod:8080" for version in (4, 6) for client in CLIENTS[version]}


@pytest.mark.parametrize("others", OTHERS.values(), ids=list(OTHERS))
def test_ours_is_asked_before_theirs(pod: Pod, others: list[str]) -> None:
    """Answers to the client stay with the proxy; a second run changes nothing, and removal leaves theirs alone."""
    plant(pod, others)
    before = rules(pod)
    pod.open_listeners(transparent=True)
    pod.applied(*TPROXY)
    for version in (4, 6):
        found = pod.inside.output(
            "ip", "route", "get", CLIENTS[version][0], "from", ADDRESSES[version], "mark", "0x539"
        )
        assert found.startswith("local ")
        assert "table 133" in found
        assert str(pod.dial_in(8080, version=version)) == "pod:15006"
    assert answers_stay(pod) == ALL_STAY
    assert "already in place" in pod.applied(*TPROXY).stderr
    assert len(ours(pod)) == 2
    pod.applied("--cleanup-only")
    assert rules(pod) == before


@pytest.mark.parametrize("others", HARMLESS.values(), ids=list(HARMLESS))
def test_what_takes_nothing_moves_nothing(pod: Pod, others: list[str]) -> None:
    """Beside rules that no packet with our mark follows, ours stands where it always does."""
    plant(pod, others)
    pod.open_listeners(transparent=True)
    result = pod.applied(*TPROXY)
    assert all(rule.startswith("32765:") for rule in ours(pod))
    assert "of others" not in result.stderr
    assert answers_stay(pod) == ALL_STAY


def test_a_rule_that_comes_later_is_told_and_passed(pod: Pod) -> None:
    """verify, status, check and trace name it, in both families; a rerun puts ours before it, once, and all is well."""
    pod.applied(*TPROXY)
    plant(pod, OTHERS["by source"])
    pod.open_listeners(transparent=True)
    assert set(answers_stay(pod).values()) == {"timeout"}
    verified = pod.capture("verify", *TPROXY)
    assert verified.status == 4
    for version, tool in ((4, "ip"), (6, "ip -6")):
        told = f"`{tool} rule: 100: from {ADDRESSES[version]} lookup 200` of others is asked before ours"
        for command in (["verify", *TPROXY], ["status"], ["trace", "--live", "--in", f"[{ADDRESSES[version]}]:80"]):
            assert told in pod.capture(*command).stdout.replace("\n", " ")
        assert f"100: from {ADDRESSES[version]} lookup 200" in pod.capture("check", *TPROXY).stdout
    assert "a rerun puts ours before it" in verified.stdout
    assert "ip rule goes to priority 99, before those of others" in pod.applied(*TPROXY).stderr
    assert answers_stay(pod) == ALL_STAY
    assert len(ours(pod)) == 2
    assert pod.capture("verify", *TPROXY).status == 0


def test_where_there_is_no_place_before_theirs_a_run_is_refused(pod: Pod) -> None:
    """A rule of others at priority 0: nothing is touched, and the reason is told; so it is where it came later."""
    pod.applied(*TPROXY)
    plant(pod, ["pref 0 from {pod} lookup 200"])
    before = pod.state()
    for refused in (pod.capture(*TPROXY), pod.capture("-n", *TPROXY)):
        assert f"`ip rule: 0: from {ADDRESSES[4]} lookup 200` of others is asked before ours" in refused.stderr
        assert "no place is before it; give it a priority above 0" in refused.stderr
    assert pod.capture(*TPROXY).status == 1
    verified = pod.capture("verify", *TPROXY)
    assert verified.status == 4
    assert "a rerun is refused" in verified.stdout
    assert pod.capture("check", *TPROXY).status == 1
    assert pod.state() == before
    pod.applied("--cleanup-only")
    pod.applied(*TPROXY[:-3])


ROUTES = {
    "a better default route": ("-6", ["default", "dev", "eth0", "metric", "1"], 1, 4),
    "one that refuses": ("-6", ["blackhole", "default", "metric", "7"], 1, 4),
    "a part of the clients": ("-4", ["192.0.2.0/25", "via", GATEWAY[4]], 0, 4),
    "a part, refused": ("-6", ["unreachable", "2001:db8:7::/64"], 0, 4),
    "by type of service": ("-4", ["default", "tos", "0x10", "via", GATEWAY[4]], 0, 4),
    "a worse default route": ("-4", ["default", "via", GATEWAY[4], "metric", "9"], 0, 0),
}


@pytest.mark.parametrize(("version", "route", "status", "verdict"), ROUTES.values(), ids=list(ROUTES))
def test_a_route_of_others_in_our_table_is_named(
    pod: Pod, version: str, route: list[str], status: int, verdict: int
) -> None:
    """A run, verify, status, check and trace name it; where it takes all packets, a run is refused."""
    pod.applied(*TPROXY)
    pod.inside.ip(version, "route", "add", *route, "table", "133")
    before = pod.state()
    result = pod.capture(*TPROXY)
    assert result.status == status
    words = " ".join(word for word in route if word not in ("metric", "1", "7", "9"))
    address = f"[{ADDRESSES[int(version[1])]}]:80"
    verified = pod.capture("verify", *TPROXY)
    assert verified.status == verdict
    for told in (
        result.stderr,
        verified.stdout,
        *(
            pod.capture(*command).stdout
            for command in (["status"], ["trace", "--live", "--in", address], ["check", "--no-rehearsal", *TPROXY])
        ),
    ):
        assert words in " ".join(told.split())
    assert pod.state() == before


def test_whoever_uses_our_mark_is_named(pod: Pod) -> None:
    """Ours is asked first; a rule of others for the same mark is told, and another mark helps."""
    plant(pod, ["pref 100 fwmark 0x539/0xff lookup 200"])
    told = "`ip rule: 100: fwmark 0x539/0xff lookup 200` of others asks for our mark"
    assert told in pod.applied(*TPROXY).stderr
    verified = pod.capture("verify", *TPROXY)
    assert (verified.status, told in verified.stdout) == (0, True)
    assert pod.capture("verify", "--strict", *TPROXY).status == 4
    assert told in pod.capture("status").stdout
    assert "fwmark 0x539/0xff" in pod.capture("check", *TPROXY).stdout
    assert "of others asks for our mark" not in pod.applied(*TPROXY, "-t", "0x77").stderr


@pytest.mark.parametrize("mode", [["-u", str(PROXY)], TPROXY], ids=["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("rule", ["uidrange 1337-1337 unreachable", "iif lo uidrange 0-1500 lookup 200"])
def test_whoever_asks_whose_a_packet_is_is_named(pod: Pod, mode: list[str], rule: str) -> None:
    """The proxy answers with the capture what others answered without it: a run, verify, status, check and trace say
    which ip rule may keep its answers from the clients."""
    pod.open_listeners()
    plant(pod, [f"pref 100 {rule}", "pref 101 uidrange 5-5 lookup main"])
    told = f"`ip rule: 100: {rule}` of others asks whose a packet is"
    verdict = pod.capture("check", "--no-rehearsal", *mode)
    run = pod.applied(*mode)
    verified = pod.capture("verify", *mode)
    inbound = ["trace", "--live", "--in", f"{ADDRESSES[4]}:80"]
    for said in (
        verdict.stdout,
        run.stderr,
        verified.stdout,
        *(pod.capture(*it).stdout for it in (["status"], inbound)),
    ):
        assert told in " ".join(said.split())
        assert "101: uidrange 5-5 lookup main` of others" not in said
    takes_all = "unreachable" in rule
    assert (verified.status, pod.capture("verify", "--strict", *mode).status) == (4 if takes_all else 0, 4)
    if takes_all:
        assert str(pod.dial_in(80)) != "pod:15006"


# --- the kernel is the judge of the evaluator ---------------------------------------------------------------

RTA_MARK, RTA_UID, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT = 16, 25, 27, 28, 29
"""linux/rtnetlink.h"""
DESTINATIONS = {4: ["192.0.2.77", "192.0.2.200", "10.244.0.9"], 6: ["2001:db8:7::77", "2001:db8:9::1", "fd00:244::9"]}


def drawn_rule(random: Random, version: int) -> str:
    """A rule for ip(8), of anything that it can ask for."""
    asked = {
        "": 3,
        f"from {ADDRESSES[version]}": 1,
        f"from {NETWORKS[version]}": 1,
        f"to {NETWORKS[version]}": 2,
        f"fwmark {random.choice(['0x539', '0x39/0xff', '0x4000/0x4000', '0/0x1', '0x77'])}": 3,
        f"iif {random.choice(['lo', 'eth0'])}": 1,
        f"uidrange {random.choice(['0-999', '1000-1999'])}": 1,
        f"ipproto {random.choice(['tcp', 'udp'])}": 1,
        f"ipproto tcp dport {random.choice(['80', '8000-9000'])}": 1,
        f"ipproto tcp sport {random.choice(['40000', '1-1024'])}": 1,
        f"tos {random.choice(['0x10', '0x08'])}": 1,
    }
    chosen = random.choices(list(asked), list(asked.values()), k=random.choice([1, 1, 2]))
    actions = ["lookup 133", "lookup 200", "lookup 201", "lookup main", "blackhole", "prohibit", "nop", "lookup 999"]
    action = random.choice([*actions, "goto 150", "goto 32766", "lookup 200 suppress_prefixlength 0"])
    negated = random.choice(["", "", "", "not "])
    return f"pref {random.choice([50, 100, 100, 149, 150, 200])} {negated}{' '.join(dict.fromkeys(chosen))} {action}"


def looked_up(flow: Flow) -> bool:
    """Whether the kernel delivers it here (RTM_GETROUTE of rtnetlink(7))."""
    number, length = (2, 32) if flow.family is Family.V4 else (10, 128)
    assert flow.source
    assert flow.destination
    message = struct.pack("=BBBBBBBBI", number, length, length, flow.tos or 0, 0, 0, 0, 0, 0)
    for kind, value in (
        (1, flow.destination.packed),
        (2, flow.source.packed),
        (RTA_MARK, struct.pack("=I", flow.mark)),
        (RTA_UID, struct.pack("=I", flow.uid)),
        (RTA_IP_PROTO, struct.pack("=B", flow.transport)),
        (RTA_SPORT, struct.pack("!H", flow.source_port)),
        (RTA_DPORT, struct.pack("!H", flow.port)),
    ):
        message += messages.ATTRIBUTE.pack(messages.ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, messages.NETLINK_ROUTE) as kernel:
        size = messages.HEADER.size + len(message)
        kernel.send(messages.HEADER.pack(size, rtnetlink.RTM_GETROUTE, 1, 1, 0) + message)
        ((kind, _, _, body),) = messages.messages(kernel.recv(1 << 16))
    return kind != messages.NLMSG_ERROR and body[7] == rtnetlink.RTN_LOCAL


def test_where_a_packet_goes_is_told_as_the_kernel_does(pod: Pod, tell: Callable[[str], None]) -> None:
    """Over drawn ip rules and routes and drawn packets of both families: the same answer, without a doubt."""
    seed = os.environ.get("SEED") or str(time.time_ns())
    random = Random(seed)
    kept = 0
    for version, number in ((4, Family.V4), (6, Family.V6)):
        tables = {"133": "local default dev lo", "200": "default dev eth0", "201": f"local {NETWORKS[version]} dev lo"}
        for table, route in tables.items():
            pod.inside.ip(f"-{version}", "route", "add", *route.split(), "table", table)
        for _ in range(25):
            script = "".join(f"rule add {drawn_rule(random, version)}\n" for _ in range(random.randint(1, 5)))
            pod.inside.run("ip", f"-{version}", "-force", "-batch", "-", text=script)
            with entered(pod.inside):
                policy = Policy(rtnetlink.policy_rules(), rtnetlink.routes(passed_over=frozenset()))
                for _ in range(20):
                    flow = Flow(
                        number,
                        random.choice([0, 0x539, 0x539, 0x77, 0x4000]),
                        ip_address(random.choice(DESTINATIONS[version])),
                        ip_address(ADDRESSES[version]),
                        "lo",
                        "",
                        random.choice([6, 17]),
                        random.choice([80, 8080, 53]),
                        random.choice([40000, 1024, 5]),
                        random.choice([0, 1000]),
                        random.choice([0, 0, 0x10]),
                    )
                    assert policy.keeps(flow) is looked_up(flow), f"SEED={seed}\n{script}{flow}"
                    kept += looked_up(flow)
            pod.inside.output("sh", "-c", f"ip -{version} rule flush; ip -{version} rule add pref 32766 lookup main")
    tell(f"SEED={seed}: {kept} of 1000 packets are delivered here")
    assert kept


REFUSING = {
    "by user": (["50 uidrange 1000-1000 prohibit"], {1000: "error: EACCES"}),
    "all but the proxy": (["50 not uidrange 1337-1337 blackhole"], {1000: "error: EINVAL", 0: "error: EINVAL"}),
    "by destination": (["50 to 9.9.9.0/24 unreachable"], dict.fromkeys((1000, 1337, 0), "error: ENETUNREACH")),
    "by port": (["50 ipproto tcp dport 80 prohibit"], dict.fromkeys((1000, 1337, 0), "error: EACCES")),
    "by a jump": (["50 goto 60", "60 to 9.9.9.9 prohibit"], dict.fromkeys((1000, 1337, 0), "error: EACCES")),
    "by a table": (["50 lookup 202"], dict.fromkeys((1000, 1337, 0), "error: EINVAL")),
    "another mark": (["50 fwmark 0x8/0x8 prohibit"], {}),
    "after the table main": (["40000 prohibit"], {}),
}
"""Ip rules of others, and how they refuse whom."""


@pytest.mark.parametrize(("rules", "refused"), REFUSING.values(), ids=list(REFUSING))
def test_what_an_ip_rule_refuses_is_traced_to_it(pod: Pod, rules: list[str], refused: dict[int, str]) -> None:
    """Whoever sends it, and whoever asks: dropped by that rule where the kernel refuses it, and else where it lands."""
    pod.applied("-u", "1337")
    pod.open_listeners()
    pod.inside.ip("route", "add", "blackhole", "9.9.9.0/24", "table", "202")
    for rule in rules:
        pod.inside.ip("rule", "add", "pref", *rule.split())
    for uid in (1000, 1337, 0):
        landing = str(pod.dial("9.9.9.9", 80, uid=uid))
        traced = pod.capture("trace", "--live", "-u", "1337", "--uid", str(uid), "9.9.9.9:80")
        assert traced.status == 0, traced.stderr
        assert landing == refused.get(uid, "ext:80" if uid == 1337 else "pod:15001")
        assert ("dropped because `ip rule: " in traced.stdout) is (uid in refused), traced.stdout
        assert ("captured outbound" in traced.stdout) is (landing == "pod:15001")


@pytest.mark.parametrize("way", ["blackhole", "prohibit", "unreachable"])
@pytest.mark.parametrize("own", [True, False], ids=["its own source is let by", "nobody is"])
def test_ipv6_asks_again_with_its_source_where_it_was_refused_without_one(pod: Pod, way: str, *, own: bool) -> None:
    """What refuses a socket that is bound to no address may let by what the kernel would send (ip6_dst_lookup_tail)."""
    pod.applied("-u", "1337", "--dual-stack")
    pod.open_listeners()
    if own:
        pod.inside.ip("-6", "rule", "add", "pref", "50", "from", ADDRESSES[6], "lookup", "main")
    pod.inside.ip("-6", "rule", "add", "pref", "60", "to", OUTSIDE[6][0], way)
    landing = str(pod.dial(OUTSIDE[6][0], 80, uid=1000))
    traced = pod.capture("trace", "--live", "-u", "1337", "--uid", "1000", f"[{OUTSIDE[6][0]}]:80")
    assert traced.status == (DEPENDS if own else 0), traced.stderr
    # It may choose ::6 for its source, which is ours and for which no rule speaks.
    assert ("depends on which of our addresses" in traced.stdout) is own, traced.stdout
    assert landing.startswith("error: ") or own, landing
    assert ("dropped because" in traced.stdout) is not own, traced.stdout
