"""Others in the chains that we share: what is narrower than ours goes on and is named, what takes all is passed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conftest import BACKENDS
from tests.rig.pod import ADDRESSES, APP, PROXY
from tests.rig.traffic import Call

if TYPE_CHECKING:
    from tests.rig import Pod

SETTINGS = ["-u", str(PROXY)]


@dataclass(frozen=True)
class Narrow:
    """Rules of somebody else that ask for some of what we capture."""

    name: str
    rules: str
    """Lines of the nat table."""
    theirs: tuple[str, str, int]
    """A call that they take: `out` to an address or `in` from one, and its port."""
    lands: str
    """Where it lands, as long as they are asked first."""
    setting: str
    """That excludes what they take from our capture; empty if none does."""
    uid: int = APP


NARROW = [
    Narrow(
        "a REDIRECT behind two jumps",
        """\
:AZWI_OUTPUT - [0:0]
:AZWI_REDIRECT - [0:0]
-A OUTPUT -d 192.0.2.10/32 -p tcp -m tcp --dport 80 -j AZWI_OUTPUT
-A AZWI_OUTPUT -m owner --uid-owner 1501 -j ACCEPT
-A AZWI_OUTPUT -j AZWI_REDIRECT
-A AZWI_REDIRECT -p tcp -j REDIRECT --to-ports 8080
""",
        ("out", "192.0.2.10", 80),
        "pod:8080",
        "-x 192.0.2.10/32",
    ),
    Narrow(
        "an ACCEPT for a network",
        "-A OUTPUT -d 172.16.0.0/12 -j ACCEPT\n",
        ("out", "172.16.1.1", 80),
        "ext:80",
        "-x 172.16.0.0/12",
    ),
    Narrow(
        "a RETURN for ports",
        "-A OUTPUT -p tcp -m multiport --dports 3306,5000:6000 -j RETURN\n",
        ("out", "9.9.9.9", 5432),
        "ext:5432",
        "-o 3306,5000-6000",
    ),
    Narrow(
        "a REDIRECT for an owner",
        "-A OUTPUT -p tcp -m owner --uid-owner 4242 -j REDIRECT --to-ports 9080\n",
        ("out", "9.9.9.9", 80),
        "pod:9080",
        "--exclude-uids 4242",
        uid=4242,
    ),
    Narrow(
        "a DNAT for a port of an owner",
        "-A OUTPUT -p tcp -m tcp --dport 443 -m owner --uid-owner 4000-4999 -j DNAT --to-destination 1.1.1.1:8080\n",
        ("out", "9.9.9.9", 443),
        "ext:8080",
        "--exclude-outbound-ports-for-uids tcp:443:4000-4999",
        uid=4242,
    ),
    Narrow(
        "a group's ACCEPT in a chain without a match before it",
        ":TEAM - [0:0]\n-A OUTPUT -j TEAM\n-A TEAM -p udp -j RETURN\n-A TEAM -m owner --gid-owner 4242 -j ACCEPT\n",
        ("out", "9.9.9.9", 80),
        "ext:80",
        "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=4242",
        uid=4242,
    ),
    Narrow(
        "a REDIRECT of an inbound port",
        ":MIRROR - [0:0]\n-A PREROUTING -j MIRROR\n-A MIRROR -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9080\n",
        ("in", "9.9.9.9", 8080),
        "pod:9080",
        "-d 8080",
    ),
    Narrow(
        "an ACCEPT for a client",
        "-A PREROUTING -s 9.9.9.9/32 -p tcp -m tcp --dport 80 -j ACCEPT\n",
        ("in", "9.9.9.9", 80),
        "pod:80",
        "--exclude-inbound-cidrs 9.9.9.9/32",
    ),
]
WIDE = {
    "a REDIRECT of all TCP": "-A OUTPUT -p tcp -j REDIRECT --to-ports 9080\n",
    "an ACCEPT": "-A OUTPUT -j ACCEPT\n",
    "a RETURN of all that begins": "-A OUTPUT -m conntrack --ctstate NEW -j RETURN\n",
    "all but a network": "-A OUTPUT ! -d 10.0.0.0/8 -p tcp -j REDIRECT --to-ports 9080\n",
    "all but an owner": "-A OUTPUT -p tcp -m owner ! --uid-owner 5678 -j REDIRECT --to-ports 9080\n",
    "all behind exceptions": (
        ":SOCKS - [0:0]\n-A OUTPUT -p tcp -j SOCKS\n-A SOCKS -d 10.0.0.0/8 -j RETURN\n"
        "-A SOCKS -d 127.0.0.0/8 -j RETURN\n"
        "-A SOCKS -p tcp -j REDIRECT --to-ports 9080\n"
    ),
    "all in two halves": "-A OUTPUT -d 0.0.0.0/1 -p tcp -j ACCEPT\n-A OUTPUT -d 128.0.0.0/1 -p tcp -j ACCEPT\n",
    "all that has no mark": "-A OUTPUT -p tcp -m mark --mark 0x0/0xff -j ACCEPT\n",
    "all by the one interface": "-A OUTPUT -o eth0 -p tcp -j REDIRECT --to-ports 9080\n",
    "all from the one address": f"-A OUTPUT -s {ADDRESSES[4]}/32 -p tcp -j REDIRECT --to-ports 9080\n",
    "all that arrives": "-A PREROUTING -p tcp -j ACCEPT\n",
    "all that arrives for this host": "-A PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT\n",
    "all that arrives by the one interface": "-A PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports 9080\n",
    "all that arrives at the one address": f"-A PREROUTING -d {ADDRESSES[4]}/32 -p tcp -j REDIRECT --to-ports 9080\n",
}


def plant(pod: Pod, backend: str, rules: str) -> None:
    pod.inside.output(f"iptables-{backend}-restore", "--noflush", text=f"*nat\n{rules}COMMIT\n")


def called(pod: Pod, call: tuple[str, str, int], uid: int) -> str:
    direction, host, port = call
    inbound = Call(pod.outside, ADDRESSES[4], port, source=host)
    return str(pod.dial(host, port, uid=uid) if direction == "out" else pod.traffic.call(inbound))


def captures_the_rest(pod: Pod) -> None:
    assert str(pod.dial("1.1.1.1", 80)) == "pod:15001"
    assert str(pod.dial_in(5432)) == "pod:15006"


def verified(pod: Pod, *arguments: str) -> tuple[int, list[str]]:
    """The exit status, and the rules of others that are named."""
    result = pod.capture("verify", *arguments, "--output", "json")
    return result.status, [found["rule"] for found in json.loads(result.stdout)["findings"]]


@pytest.mark.parametrize("case", NARROW, ids=lambda case: case.name)
def test_narrower_rules_that_stood_there_first_keep_working(pod: Pod, backend: str, case: Narrow) -> None:
    """On a first run and on a rerun; what they take is named, with the setting that excludes it, until it is set."""
    pod.open_listeners()
    plant(pod, backend, case.rules)
    forced = f"--force-iptables-binary={backend}"
    for _ in range(2):
        said = pod.applied(*SETTINGS, forced).stderr
        assert "asked before ours" in said
        assert case.setting in said
        assert "--precedence ours" in said
        assert called(pod, case.theirs, case.uid) == case.lands
        captures_the_rest(pod)
    status, named = verified(pod, *SETTINGS, forced)
    assert (status, len(named)) == (0, 1)
    assert verified(pod, "--strict", *SETTINGS, forced) == (4, named)
    assert case.setting in pod.capture("verify", *SETTINGS, forced).stdout
    name, _, value = case.setting.partition("=" if "=" in case.setting else " ")
    flags, env = ([], {name: value}) if "=" in case.setting else ([name, value], {})
    said = pod.applied(*SETTINGS, *flags, forced, env=env).stderr
    assert "asked before ours" not in said
    assert called(pod, case.theirs, case.uid) == case.lands
    captures_the_rest(pod)


@pytest.mark.parametrize(
    ("case", "backend"), list(zip(NARROW, itertools.cycle(BACKENDS))), ids=lambda it: getattr(it, "name", it)
)
def test_ours_can_be_put_first(pod: Pod, backend: str, case: Narrow) -> None:
    """--precedence ours passes all of them, and names the redirections that get nothing any more."""
    pod.open_listeners()
    plant(pod, backend, case.rules)
    settings = [*SETTINGS, "--precedence", "ours", f"--force-iptables-binary={backend}"]
    theirs = {line for line in pod.saved(backend) if line.startswith("-A")}
    said = pod.applied(*settings).stderr
    assert ("is asked behind ours" in said) is ("REDIRECT" in case.rules or "DNAT" in case.rules)
    assert called(pod, case.theirs, case.uid) == ("pod:15001" if case.theirs[0] == "out" else "pod:15006")
    captures_the_rest(pod)
    assert verified(pod, "--strict", *settings) == (0, [])
    assert theirs <= set(pod.saved(backend))


@pytest.mark.parametrize(("rules", "backend"), list(zip(WIDE.values(), itertools.cycle(BACKENDS))), ids=list(WIDE))
def test_those_that_take_everything_are_passed(pod: Pod, backend: str, rules: str) -> None:
    """They stay, to the letter and in their order; ours is asked first, on a first run and when they come later."""
    pod.open_listeners()
    settings = [*SETTINGS, f"--force-iptables-binary={backend}"]
    plant(pod, backend, rules)
    theirs = [line for line in pod.saved(backend) if line.startswith("-A")]
    pod.applied(*settings)
    captures_the_rest(pod)
    assert [line for line in pod.saved(backend) if line in theirs] == theirs
    assert verified(pod, "--strict", *settings) == (0, [])
    for line in reversed(rules.splitlines()):
        if line.startswith(("-A OUTPUT", "-A PREROUTING")):
            pod.inside.output(f"iptables-{backend}", "-t", "nat", *line.replace("-A", "-I", 1).split())
    status, named = verified(pod, *settings)
    assert status == 4
    assert named
    pod.applied(*settings)
    captures_the_rest(pod)
    assert verified(pod, "--strict", *settings) == (0, [])


FORWARDER = """
import encodings.idna, os, socket, struct, sys, threading
port, uid, most = map(int, sys.argv[1:])
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("0.0.0.0", port))
listening.listen(100)
os.setgid(uid)
os.setuid(uid)
def forward(came):
    raw = came.getsockopt(socket.SOL_IP, 80, 16)
    to = socket.inet_ntoa(raw[4:8]), struct.unpack("!H", raw[2:4])[0]
    try:
        on = socket.create_connection(to, 2)
        came.sendall(on.recv(400))
    except OSError as error:
        came.sendall(f"{error}|0||0|".encode())
    came.close()
print("ready", flush=True)
for number in range(most):
    came, _ = listening.accept()
    print("came", flush=True)
    threading.Thread(target=forward, args=(came,)).start()
"""
"""A proxy: what is sent to it goes on to where it was going, as this user."""


@pytest.mark.parametrize("comes_first", ["theirs", "ours"])
def test_two_proxies_do_not_send_a_request_in_circles(pod: Pod, backend: str, comes_first: str) -> None:
    """A redirect of others to a proxy of theirs, and ours: each hands a request on once at most, and it arrives."""
    rules = NARROW[0].rules.replace("--to-ports 8080", "--to-ports 8000")
    pod.traffic.listen(pod.outside, [80], where="ext", hosts=["0.0.0.0"])
    settings = [*SETTINGS, f"--force-iptables-binary={backend}"]
    if comes_first == "ours":
        pod.applied(*settings, "-x", "192.0.2.10/32")
    plant(pod, backend, rules)
    pod.applied(*settings, *(["-x", "192.0.2.10/32"] if comes_first == "ours" else []))
    proxies = [
        subprocess.Popen(
            ["ip", "netns", "exec", pod.inside.name, sys.executable, "-c", FORWARDER, str(port), str(uid), "9"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for port, uid in ((15001, PROXY), (8000, 1501))
    ]
    try:
        for proxy in proxies:
            assert proxy.stdout is not None
            assert proxy.stdout.readline() == "ready\n"
        assert str(pod.dial("192.0.2.10", 80)) == "ext:80"
        assert str(pod.dial("1.1.1.1", 80)) == "ext:80"
    finally:
        for proxy in proxies:
            proxy.kill()
    ours, theirs = (proxy.communicate()[0].count("came") for proxy in proxies)
    assert (ours, theirs) == (1, 1)
