"""What a run says: the log and its two layouts, warnings for what will surprise, and the last line of a failure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.test_apply import block
from tests.rig import Namespace, Pod, Result
from tests.rig.pod import ROOT

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_the_log_shows_what_users_of_the_reference_are_used_to(pod: Pod) -> None:
    """Environment, settings, the text given to iptables-restore, and that the kernel holds it."""
    result = pod.applied("-p", "15001", env={"INBOUND_CAPTURE_PORT": "15006", "UNRELATED": "1"})
    lines = result.stderr.splitlines()
    assert all(STAMP.match(line) for line in lines if "\t" in line)
    text = result.stderr
    sections = ["Environment:", "Settings:", "iptables-nft-restore --noflush", "nf_tables holds", "in place"]
    assert [text.index(section) for section in sections] == sorted(text.index(section) for section in sections)
    assert "  INBOUND_CAPTURE_PORT=15006" in lines
    assert "  --inbound-capture-port=15006 (environment INBOUND_CAPTURE_PORT)" in lines
    assert "UNRELATED" not in text


def test_a_value_cannot_forge_a_line_of_the_log(pod: Pod) -> None:
    """What has line breaks in it is shown with them spelled out."""
    result = pod.applied(env={"ENVOY_USER": "x\n2026-01-01T00:00:00.000000Z\tinfo\tThe capture is in place"})
    assert not any(line.startswith("2026-01-01") for line in result.stderr.splitlines())
    assert 'ENVOY_USER="x\\n2026-01-01' in result.stderr


def test_the_log_as_json_is_an_object_on_each_line(pod: Pod) -> None:
    """With time, level, scope and msg, also for a failure."""
    for arguments, level in ((["-p", "15001"], "info"), (["-p", "0"], "error")):
        result = pod.capture(*arguments, "--log_as_json")
        entries = [json.loads(line) for line in result.stderr.splitlines()]
        assert all(list(entry) == ["time", "level", "scope", "msg"] for entry in entries)
        assert all(STAMP.fullmatch(entry["time"]) for entry in entries)
        assert entries[-1]["level"] == level


@pytest.mark.parametrize(("level", "said"), [("default:warn", False), ("none", False), ("info", True)])
def test_the_log_level_is_honoured(pod: Pod, level: str, said: bool) -> None:
    """`SCOPE:LEVEL`, as the reference takes it, and a level alone."""
    assert bool(pod.applied("--ipv6=auto", f"--log_output_level={level}").stderr) is said


def test_the_last_line_of_a_failure_is_cause_and_cure(pod: Pod) -> None:
    """In one line, whatever stands above it."""
    block(pod, "ip")
    result = pod.capture("-p", "15001", "--force-iptables-binary=nft")
    last = result.stderr.splitlines()[-1]
    assert last.partition("\t")[2].startswith("error\tcapture failed: the kernel refused the IPv4 rules")


def test_a_failure_is_written_where_kubernetes_shows_it(pod: Pod) -> None:
    """/dev/termination-log, if it exists, holds the last line; and is not made if it does not."""
    script = 'mount -t tmpfs none /dev && : > /dev/termination-log && "$@"; cat /dev/termination-log'
    done = pod.inside.run(
        "unshare", "-m", "sh", "-c", script, "sh", *pod.command("-p", "0", "-z", "x"), env=pod.environ()
    )
    refused = 'flag -p "0": is not a port; give a number from 1 to 65535'
    assert done.stdout == f"capture failed: refused {refused}, and 1 more"
    pod.capture("-p", "0")
    assert not os.path.exists("/dev/termination-log")


# --- warnings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-u", "0"], "flag -u: with uid 0 as the proxy, nothing that root sends is captured"),
        (["-b", "80", "-d", "22"], "flag -d is without effect: flag -b lists the captured ports already"),
        (["-b", "80,15006"], "flag -b captures port 15006, which is the proxy's own"),
        (["-b", "15000-15010"], "flag -b captures port 15001, which is the proxy's own"),
        (["-x", "10.1.2.3/8"], "flag -x: 10.1.2.3/8 has host bits, which mean nothing to a rule: taken as 10.0.0.0/8"),
        (["--capture-all-dns"], "--capture-all-dns is without effect without --redirect-dns"),
        (["--probe-timeout", "1s"], "--probe-timeout is without effect without --run-validation"),
    ],
)
def test_what_will_surprise_is_warned_of(ipv4_pod: Pod, arguments: list[str], said: str) -> None:
    """Each with the flag that it came from; and only that, for a plain run has no warnings."""
    assert warnings(ipv4_pod.applied("-u", "1337")) == []
    assert said in warnings(ipv4_pod.applied(*arguments))


def warnings(result: Result) -> list[str]:
    return [line.partition("\twarn\t")[2] for line in result.stderr.splitlines() if "\twarn\t" in line]


def test_owner_groups_without_effect_are_warned_of(ipv4_pod: Pod) -> None:
    """An exclusion beside a list, and a list of nobody."""
    both = {"ISTIO_OUTBOUND_OWNER_GROUPS": "202", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "888"}
    assert "OWNER_GROUPS_EXCLUDE is without effect" in ipv4_pod.applied(env=both).stderr
    nobody = ipv4_pod.applied(env={"ISTIO_OUTBOUND_OWNER_GROUPS": ""})
    assert "ISTIO_OUTBOUND_OWNER_GROUPS is empty: nothing outbound is captured" in nobody.stderr


def test_an_application_that_runs_as_the_proxy_is_named(ipv4_pod: Pod) -> None:
    """With pid and name; somebody in another namespace is not."""
    sleeper = ["setpriv", "--reuid=1337", "--clear-groups", "sleep", "60"]
    with (
        subprocess.Popen(["ip", "netns", "exec", ipv4_pod.inside.name, *sleeper]) as inside,
        subprocess.Popen(["ip", "netns", "exec", ipv4_pod.outside.name, *sleeper]) as outside,
    ):
        try:
            for process in (inside, outside):
                until_named(process.pid, "sleep")
            result = ipv4_pod.applied("-u", "1337")
        finally:
            inside.kill()
            outside.kill()
    warned = f"pid {inside.pid} (sleep) runs as uid 1337: it is taken for the proxy and never captured"
    assert warned in result.stderr
    assert f"pid {outside.pid}" not in result.stderr


def until_named(pid: int, name: str) -> None:
    """Wait until a process has become this program."""
    while Path(f"/proc/{pid}/comm").read_text().strip() != name:
        os.sched_yield()


# --- kernels without IPv6 NAT -------------------------------------------------------------------------------


def test_ipv6_that_nobody_asked_for_is_left_where_it_cannot_be() -> None:
    """No address yet, so both families were to be captured: a warning, and IPv4 is."""
    with Namespace("bare") as bare:
        bare.output("nft", "add", "table", "ip6", "nat")
        bare.output("nft", "add", "chain", "ip6", "nat", "OUTPUT", "{ type filter hook output priority 0; }")
        done = bare.run(sys.executable, "-m", "capture", "--force-iptables-binary=nft", env=Pod.environ())
        assert done.returncode == 0, done.stderr
        assert "IPv6 is not captured: capture failed: the kernel refused the IPv6 rules" in done.stderr
        assert "ISTIO_REDIRECT" in bare.output("iptables-nft-save")
        asked = bare.run(sys.executable, "-m", "capture", "--ipv6=on", env=Pod.environ())
        assert asked.returncode == 1
        assert "the kernel refused the IPv6 rules" in asked.stderr


def test_the_program_stands_without_the_repository(tmp_path: os.PathLike[str]) -> None:
    """It runs from any folder: nothing is looked up beside the code."""
    done = subprocess.run(
        [sys.executable, "-m", "capture", "render"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
