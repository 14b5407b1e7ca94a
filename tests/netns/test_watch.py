"""Following a capture: who is captured and by which rule, drift the moment it happens, and a clean end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import every_backend
from tests.rig import APP, PROXY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rig import Pod

SETTINGS = ["-u", str(PROXY), "-o", "22"]
LONGEST = 20.0
"""Seconds that anything is waited for."""


class Watching:
    """A running `capture watch` and what it said so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.text = b""

    def until(self, found: Callable[[str], bool]) -> str:
        """Read on until this holds for what was said."""
        assert self.process.stdout is not None
        last = time.monotonic() + LONGEST
        while not found(self.text.decode()):
            left = last - time.monotonic()
            assert left > 0, f"not said: {self.text.decode()}"
            if select.select([self.process.stdout], [], [], left)[0]:
                more = os.read(self.process.stdout.fileno(), 1 << 16)
                assert more, f"it ended: {self.text.decode()}"
                self.text += more
        return self.text.decode()

    def event(self, kind: str, **fields: object) -> dict[str, Any]:
        """The first JSON line of this kind with these fields."""

        def matching(text: str) -> Iterator[dict[str, Any]]:
            for line in text.splitlines(keepends=True):
                if line.endswith("\n"):
                    event = json.loads(line)
                    if event["event"] == kind and all(event[name] == value for name, value in fields.items()):
                        yield event

        return next(matching(self.until(lambda text: any(matching(text)))))

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it and the processes it waited for had till now (proc_pid_stat(5), fields 14 to 17)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def ended(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit status after this signal, and all that was written to stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=LONGEST)
        return self.process.returncode, said.decode()


@contextlib.contextmanager
def watching(pod: Pod, *arguments: str) -> Iterator[Watching]:
    command = ["ip", "netns", "exec", pod.inside.name, *pod.command("watch", "--output", "json", *arguments)]
    process = subprocess.Popen(command, env=pod.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield Watching(process)
    finally:
        process.kill()
        process.communicate()


def test_connections_are_told_with_the_rule_that_decided(pod: Pod, backend: str) -> None:
    """Captured outbound, excluded, and captured inbound: each with its outcome, where it went, and one rule."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    pod.open_listeners()
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift", against="the start")
        pod.dial("9.9.9.9", 80)
        out = watch.event("connection", destination_port=80)
        pod.dial("9.9.9.9", 22)
        excluded = watch.event("connection", destination_port=22)
        pod.dial_in(8080)
        inward = watch.event("connection", destination_port=8080)
        counted = watch.event("counters", since_start=1)
        assert watch.ended() == (0, "")
    assert (out["captured"], out["answered_by_port"], out["direction"]) == (True, 15001, "out")
    assert [(rule["chain"], rule["backend"], rule["why"]) for rule in out["decided_by"]] == [
        ("ISTIO_OUTPUT", backend, "one of these: everything else goes to the proxy; a captured destination")
    ]
    assert (excluded["captured"], excluded["answered_by"], excluded["answered_by_port"]) == (False, "9.9.9.9", 22)
    assert [rule["rule"] for rule in excluded["decided_by"]] == ["-p tcp --dport 22 -j RETURN"]
    assert (inward["captured"], inward["answered_by_port"], inward["direction"]) == (True, 15006, "in")
    assert [rule["chain"] for rule in inward["decided_by"]] == ["ISTIO_INBOUND"]
    assert counted["rule"]["chain"] == "ISTIO_OUTPUT"


@every_backend
def test_tproxy_is_told_by_the_rules_that_counted(pod: Pod, backend: str) -> None:
    """Conntrack sees nothing changed; the rule that handed it over has counted."""
    pod.applied(*SETTINGS, "-m", "TPROXY", f"--force-iptables-binary={backend}")
    pod.open_listeners(transparent=True)
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift")
        assert str(pod.dial_in(8080)) == "pod:15006"
        inward = watch.event("connection", destination_port=8080)
        watch.ended()
    assert (inward["captured"], inward["answered_by_port"]) == (True, 8080)
    assert [(rule["table"], rule["why"]) for rule in inward["decided_by"]] == [
        ("mangle", "a new connection for the proxy")
    ]


def test_beside_dns_each_connection_is_laid_to_its_own_rule(pod: Pod, backend: str) -> None:
    """TCP that is no DNS is not what the rules for DNS took, although all of it comes to them."""
    pod.applied(*SETTINGS, "--redirect-dns", "--capture-all-dns", f"--force-iptables-binary={backend}")
    pod.open_listeners()
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift", against="the start")
        pod.dial("9.9.9.9", 80)
        out = watch.event("connection", destination_port=80)
        pod.dial("9.9.9.9", 53)
        query = watch.event("connection", destination_port=53)
        watch.ended()
    assert (out["captured"], [(rule["chain"], rule["rule"]) for rule in out["decided_by"]]) == (
        True,
        [("ISTIO_OUTPUT", "-j ISTIO_REDIRECT")],
    )
    assert (query["captured"], query["answered_by_port"]) == (True, 15053)
    assert [rule["chain"] for rule in query["decided_by"]] == ["ISTIO_OUTPUT_DNS"]


THEIRS = """
table ip others {
  chain out {
    type nat hook output priority -101
    tcp dport 80 redirect to :15001
    tcp dport 443 redirect to :8080
  }
}
"""


def test_what_others_redirect_is_not_called_captured(pod: Pod, backend: str) -> None:
    """Neither to another port nor to that of the proxy: no rule of ours counted it."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    pod.inside.output("nft", "-f", "-", text=THEIRS)
    pod.open_listeners()
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift", against="the start")
        assert str(pod.dial("9.9.9.9", 80)) == "pod:15001"
        to_proxy = watch.event("connection", destination_port=80)
        assert str(pod.dial("9.9.9.9", 443)) == "pod:8080"
        elsewhere = watch.event("connection", destination_port=443)
        assert str(pod.dial("9.9.9.9", 8080)) == "pod:15001"
        ours = watch.event("connection", destination_port=8080)
        watch.ended()
    told = [(event["captured"], event["redirected_by_others"]) for event in (to_proxy, elsewhere, ours)]
    assert told == [(False, True), (False, True), (True, False)]


def test_drift_is_told_when_it_happens_and_when_it_is_repaired(pod: Pod, backend: str) -> None:
    """From what was there at the start; nft tells at once and by whom, legacy within an interval. Then 0 again."""
    forced = f"--force-iptables-binary={backend}"
    pod.applied(*SETTINGS, forced)
    with watching(pod, "--interval", "10s" if backend == "nft" else "100ms") as watch:
        watch.event("no drift")
        begun = time.monotonic()
        pod.inside.output(f"iptables-{backend}", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
        drift = watch.event("drift")
        assert time.monotonic() - begun < 5
        assert [found["kind"] for found in drift["findings"]] == ["rule of others above ours"]
        assert drift["changed_by"] == (["iptables-nft"] if backend == "nft" else [])
        pod.applied(*SETTINGS, forced)
        watch.until(lambda text: text.count('"no drift"') == 2)
        assert watch.ended(signal.SIGINT) == (0, "")


def test_drift_that_is_left_has_a_status(pod: Pod, backend: str) -> None:
    """4, whether it was there at the start, against settings, or came."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    forced = f"--force-iptables-binary={backend}"
    assert pod.capture("watch", *SETTINGS, forced, "--count", "1", "--interval", "50ms").status == 0
    result = pod.capture("watch", "-u", str(PROXY), forced, "--count", "1", "--interval", "50ms")
    assert result.status == 4
    assert "drift: 1 difference from the settings" in result.stdout
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift")
        pod.inside.output(f"iptables-{backend}", "-t", "nat", "-F", "ISTIO_OUTPUT")
        watch.event("drift")
        assert watch.ended() == (4, "")


def test_routing_that_goes_is_drift(pod: Pod) -> None:
    """An ip rule, a route, ::6: rtnetlink tells at once."""
    pod.applied(*SETTINGS, "-m", "TPROXY", "--dual-stack")
    with watching(pod, "--interval", "10s") as watch:
        watch.event("no drift")
        pod.inside.ip("rule", "del", "fwmark", "0x539", "lookup", "133")
        watch.until(lambda text: "ip rule missing" in text)
        pod.inside.ip("route", "del", "local", "default", "dev", "lo", "table", "133")
        watch.until(lambda text: "route missing" in text)
        pod.inside.ip("-6", "addr", "del", "::6/128", "dev", "lo")
        watch.until(lambda text: "address missing" in text)
        assert watch.ended() == (4, "")


def test_plain_lines_where_there_is_no_terminal(pod: Pod) -> None:
    """One for each thing seen, with the time before it."""
    pod.applied(*SETTINGS)
    result = pod.capture("watch", "--for", "300ms", "--interval", "100ms")
    assert (result.status, result.stderr) == (0, "")
    assert [line[9:] for line in result.stdout.splitlines()] == ["no drift from the start"]


def test_a_table_on_a_terminal(pod: Pod) -> None:
    """Redrawn in place, within the size of the terminal, which is as it was when it ends."""
    pod.applied(*SETTINGS)
    pod.open_listeners()
    pod.dial("9.9.9.9", 80)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = ["ip", "netns", "exec", pod.inside.name, *pod.command("watch", "--interval", "100ms", "--count", "3")]
    with subprocess.Popen(
        command, env={**pod.environ(), "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # EIO, when the other side is closed
            while more := os.read(ours, 1 << 16):
                text += more
        os.close(ours)
        assert process.wait(timeout=LONGEST) == 0
    drawn = text.decode()
    assert drawn.startswith("\x1b[?1049h")
    assert "\x1b[?1049l" in drawn
    assert drawn.count("\x1b[H") == 4
    assert "everything else goes to the proxy" in drawn


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(pod: Pod, number: int) -> None:
    """Status 0 and not a word, also long before an interval is over."""
    pod.applied(*SETTINGS)
    with watching(pod, "--interval", "1h") as watch:
        watch.event("no drift")
        begun = time.monotonic()
        assert watch.ended(number) == (0, "")
        assert time.monotonic() - begun < 5


def test_a_reader_that_goes_away_is_no_failure(pod: Pod) -> None:
    """`capture watch | head -1`."""
    pod.applied(*SETTINGS)
    command = f"{' '.join(pod.command('watch', '--interval', '50ms', '--output', 'json', '--for', '2s'))} | head -1"
    done = pod.inside.run("sh", "-c", f"{command}; true", env=pod.environ())
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@every_backend
def test_waiting_costs_next_to_nothing(pod: Pod, backend: str) -> None:
    """Of three quiet seconds at the default interval a fifth is CPU at most; without legacy tables, a twentieth."""
    pod.applied(*SETTINGS, f"--force-iptables-binary={backend}")
    with watching(pod) as watch:
        watch.event("no drift")  # what it costs to start is not what waiting costs, and varies more
        before = watch.cpu
        time.sleep(3)  # no condition: what passing time costs is what is asked
        spent = watch.cpu - before
        assert watch.ended() == (0, "")
    assert spent < 3 * (0.05 if backend == "nft" else 0.2)


def test_what_is_not_permitted_is_said_once(pod: Pod) -> None:
    """Where conntrack events are switched off, counters are followed all the same."""
    pod.applied(*SETTINGS)
    pod.open_listeners()
    pod.inside.output("sysctl", "-qw", "net.netfilter.nf_conntrack_events=0")
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift")
        pod.dial("9.9.9.9", 80)
        counted = watch.event("counters")
        assert watch.ended()[0] == 0
    assert (counted["packets"], counted["rule"]["captures"]) == (1, True)
    assert watch.text.decode().count("nf_conntrack_events is 0") == 1


def test_the_owner_cannot_be_told(pod: Pod) -> None:
    """The proxy's own connection and an application's look alike to conntrack: the counters tell them apart."""
    pod.applied(*SETTINGS)
    pod.open_listeners()
    with watching(pod, "--interval", "100ms") as watch:
        watch.event("no drift")
        assert str(pod.dial("9.9.9.9", 443, uid=PROXY)) == "ext:443"
        own = watch.event("connection", destination_port=443)
        assert str(pod.dial("9.9.9.9", 443, uid=APP)) == "pod:15001"
        watch.event("connection", destination_port=443, captured=True)
        watch.ended()
    assert own["captured"] is False
    assert [rule["rule"] for rule in own["decided_by"]] == ["-m owner --uid-owner 1337 -j RETURN"]
