"""`capture trace` on the command line: what it answers, in words and as JSON, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import Namespace, Pod
from tests.rig.in_process import Ended, capture
from tests.rig.memory import Memory
from tests.rig.pod import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.rig.pod import Result

OUT = "captured outbound by rule 9 of ISTIO_OUTPUT (everything else goes to the proxy), because of "


def asked(*argv: str) -> subprocess.CompletedProcess[str]:
    """The real command line, of the host's kernel: it only looks."""
    words = [sys.executable, "-m", "capture", "trace", "--log_output_level=none", *argv]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)


def trace(*argv: str, environ: dict[str, str] | None = None) -> Ended:
    """The same in a pod that is not there."""
    pod = Memory("127.0.0.1/8", "::1/128", "10.244.0.5/24", "fd00:244::5/64")
    return capture(pod, "trace", "--log_output_level=none", *argv, environ=environ)


def sentence(*argv: str, environ: dict[str, str] | None = None) -> str:
    done = trace(*argv, environ=environ)
    assert done.status == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["9.9.9.9:80"], OUT + '--istio-service-cidr "*" by default: it goes to port 15001 of the proxy'),
        (["--out", "--tcp", "9.9.9.9:80", "-i", "*"], OUT + 'flag -i "*": it goes to port 15001 of the proxy'),
        (["9.9.9.9:80", "--uid", "1337", "-u", "1337"], "because of flag -u"),
        (["9.9.9.9:80", "--uid", "root", "-u", "0"], "not captured, by rule 4 of ISTIO_OUTPUT"),
        (["9.9.9.9:80", "--uid", "5", "--gid", "1337", "-u", "1337"], "not captured, by rule 7 of ISTIO_OUTPUT"),
        (["--udp", "9.9.9.9:443"], "not captured, because only TCP is looked at"),
        (["--udp", "9.9.9.9:443", "--udp", "443=reject"], 'because of flag --udp "443=reject"'),
        (["--udp", "443=drop", "--udp", "9.9.9.9:443"], "dropped by rule 4 of ISTIO_OUTPUT"),
        (["--udp=443=drop", "9.9.9.9:443"], "captured outbound"),
        (["--udp", "--state=new", "9.9.9.9:443"], "not captured, because only TCP is looked at"),
        (["9.9.9.9:443", "--udp"], "not captured, because only TCP is looked at"),
        (["--udp", "", "9.9.9.9:443"], "captured outbound"),
        (["--udp", "9.9.9.9:53", "--redirect-dns", "--capture-all-dns"], "it goes to port 15053 of the proxy"),
        (["--in", "10.1.2.3:80", "--src", "192.0.2.7:999"], "captured inbound"),
        (
            ["--in", "10.1.2.3:80", "-d", "80"],
            'because of flag -d "80": it passes through the pod, if net.ipv4.ip_forward is 1, to 10.1.2.3:80',
        ),
        (["--in", "10.1.2.3:80", "-k", "eth7", "--iface", "eth7"], "captured outbound by rule 1 of ISTIO_INBOUND"),
        (["--iface", "eth7", "9.9.9.9:80", "-c", "eth7"], "nothing is captured on this interface"),
        (["127.0.0.1:80"], "it reaches 127.0.0.1:80 in the pod"),
        (["[2001:db8::1]:80", "--ipv6=on"], "it goes to port 15001 of the proxy"),
        (["[2001:db8::1]:80", "--ipv6=off"], "not captured, because there is no rule for it"),
        (["--state", "invalid", "--in", "10.1.2.3:80", "--drop-invalid"], "dropped by rule 1 of ISTIO_DROP"),
        (["--state", "established", "9.9.9.9:80"], "which its first packet met"),
        (["9.9.9.9:80", "--mark", "0x539"], "captured outbound"),
        (["localhost:80"], "in the pod"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_the_last_line_is_the_answer(argv: list[str], expected: str) -> None:
    """One sentence, with the rule, its reason and the option that asked for it."""
    assert expected in sentence(*argv)


def test_a_variable_is_named_as_the_origin() -> None:
    """As it was set."""
    said = sentence("9.9.9.9:80", environ={"ISTIO_SERVICE_CIDR": "9.0.0.0/8"})
    assert 'because of environment ISTIO_SERVICE_CIDR "9.0.0.0/8"' in said


def test_what_was_assumed_is_said() -> None:
    """Who sends it, if nobody says so: never the proxy."""
    assert "sent by an application, taken to be uid 1000; --uid says another" in trace("9.9.9.9:80").stdout
    assert "taken to be uid 1001" in trace("9.9.9.9:80", "-u", "1000").stdout
    assert "taken to be uid" not in trace("9.9.9.9:80", "--uid", "7").stdout
    assert "a client taken to be 192.0.2.1" in trace("--in", "10.1.2.3:80").stdout
    assert "net9 has no address here; taken to have one" in trace("--in", "10.1.2.3:80", "--iface", "net9").stdout


def test_all_rules_are_shown_on_demand() -> None:
    """Those that matched have a tick."""
    some, every = (trace("9.9.9.9:80", *more).stdout for more in ([], ["--all-rules"]))
    assert "-j RETURN" not in some
    assert every.count("-j RETURN") == 6
    assert every.count("✓") == some.count("✓") == 3


REFUSED: list[tuple[Sequence[str], str]] = [
    ([], "argument [HOST]:PORT: none is given"),
    (["1.1.1.1:80", "9.9.9.9:80"], "2 are given"),
    (["9.9.9.9"], "has no port; give HOST:PORT"),
    (["9.9.9.9:0"], "has no port from 1 to 65535"),
    (["9.9.9.9:65536"], "has no port from 1 to 65535"),
    (["9.9.9.9:http"], "has no port from 1 to 65535"),
    (["9.9.9:80"], "has 9.9.9 for a host, which is no address"),
    (["2001:db8::1:80"], "an IPv6 address goes in brackets"),
    (["[2001:db8::1:80"], "an IPv6 address goes in brackets"),
    ([":80"], "names no host"),
    (["0.0.0.0:80"], "is the address of no single host"),
    (["224.0.0.1:80"], "is the address of no single host"),
    (["no-such-host.invalid:80"], "a name that is not known here"),
    (["a\nb:80"], "a name that is not known here"),
    (["--in", "127.0.0.1:80"], "the kernel lets nothing arrive there from outside"),
    (["--in", "10.1.2.3:80", "--uid", "5"], "what arrives has no owner here"),
    (["--in", "--out", "9.9.9.9:80"], "contradicts --in"),
    (["9.9.9.9:80", "--uid", "nobody-of-that-name"], "is no user on this host"),
    (["9.9.9.9:80", "--gid", "-1"], "flag --gid"),
    (["9.9.9.9:80", "--src", "::1"], "is not of the family of 9.9.9.9"),
    (["9.9.9.9:80", "--src", "x"], "is no address of IPv4 or IPv6"),
    (["9.9.9.9:80", "--iface", "eth+"], "is not the name of one interface"),
    (["9.9.9.9:80", "--iface", "a b"], "flag --iface"),
    (["9.9.9.9:80", "--mark", "many"], "is not a fwmark"),
    (["9.9.9.9:80", "-x", "*"], "flag -x"),
]


@pytest.mark.parametrize(("argv", "said"), REFUSED, ids=[" ".join(argv) for argv, _ in REFUSED])
def test_what_cannot_be_asked_is_refused_in_words(argv: Sequence[str], said: str) -> None:
    """With status 2 and nothing on stdout."""
    done = trace(*argv)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_answer_is_json_on_demand() -> None:
    """The same steps and the same sentence."""
    done = trace("9.9.9.9:80", "-i", "*", "--output", "json")
    answer: dict[str, Any] = json.loads(done.stdout)
    assert (answer["outcome"], answer["to_address"], answer["to_port"]) == ("captured outbound", "127.0.0.1", 15001)
    assert answer["sentence"] == sentence("9.9.9.9:80", "-i", "*")
    decided = {key: answer["decided_by"][key] for key in ("table", "chain", "position", "rule", "option", "matched")}
    assert decided == {
        "table": "nat",
        "chain": "ISTIO_OUTPUT",
        "position": 9,
        "rule": "-j ISTIO_REDIRECT",
        "option": 'flag -i "*"',
        "matched": True,
    }
    matched = [(step["chain"], step["position"]) for step in answer["steps"] if step["matched"]]
    assert matched == [("OUTPUT", 1), ("ISTIO_OUTPUT", 9), ("ISTIO_REDIRECT", 1)]
    assert answer["packet"]["uid"] == 1000


def test_the_schema_describes_every_field() -> None:
    """Those whose names do not say it."""
    schema: dict[str, Any] = json.loads(trace("--output", "schema").stdout)
    assert "sentence" in schema["properties"]
    assert "description" in schema["properties"]["outcome"]
    assert set(schema["$defs"]) == {"PacketModel", "StepModel"}


# --- what is there ----------------------------------------------------------------------------------------


@pytest.fixture
def captured(backend: str) -> Iterator[Pod]:
    """A pod that is captured."""
    with Pod() as pod:
        pod.applied("-u", "1337", "-x", "10.0.0.0/8", "--dual-stack", f"--force-iptables-binary={backend}")
        yield pod


def live(pod: Pod, *argv: str) -> Result:
    return pod.capture("trace", "--live", "--log_output_level=none", *argv)


@pytest.mark.netns
def test_live_rules_are_followed_and_explained(captured: Pod, backend: str) -> None:
    """What is there decides, not what is asked for; the reasons are those of the rules."""
    done = live(captured, "10.0.7.7:80")
    assert done.status == 0, done.stderr
    assert f"nat OUTPUT ({backend})" in done.stdout
    assert "an excluded destination" in done.stdout.splitlines()[-1]
    assert "not captured, by rule 9 of ISTIO_OUTPUT" in done.stdout.splitlines()[-1]
    assert "because of --istio-service-exclude-cidr: " in done.stdout.splitlines()[-1]
    same = live(captured, "10.0.7.7:80", "-u", "1337", "-x", "10.0.0.0/8", "--dual-stack")
    assert 'because of flag -x "10.0.0.0/8": ' in same.stdout.splitlines()[-1]
    assert "captured outbound by rule 10 of ISTIO_OUTPUT" in live(captured, "9.9.9.9:80").stdout
    assert "captured inbound" in live(captured, "--in", ":80").stdout
    assert "captured outbound" in live(captured, "[2001:db8::1]:80").stdout


@pytest.mark.netns
def test_a_rule_of_others_that_cannot_be_asked_is_what_it_depends_on(captured: Pod, backend: str) -> None:
    """Status 5, and the sentence names the rule."""
    rule = "-m statistic --mode random --probability 0.5 -j ACCEPT"
    captured.inside.output(f"iptables-{backend}", "-t", "nat", "-I", "OUTPUT", *rule.split())
    done = live(captured, "9.9.9.9:80")
    assert done.status == 5
    assert re.search(
        r"^it depends on rule 1 of OUTPUT of the nat table \(-m statistic .*\): captured", done.stdout, re.MULTILINE
    )
    assert "? OUTPUT 1" in done.stdout
    assert live(captured, "10.0.7.7:80").status == 0


@pytest.mark.netns
def test_rules_of_both_backends_act() -> None:
    """Those of the younger table first: if both redirect, it depends."""
    with Pod() as pod:
        for backend, port in (("nft", "16001"), ("legacy", "16006")):
            rule = f"-t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports {port}"
            pod.inside.output(f"iptables-{backend}", *rule.split())
        done = live(pod, "9.9.9.9:80")
        assert (done.status, "younger" in done.stdout) == (5, True)
        assert live(pod, "9.9.9.9:81").status == 0


@pytest.mark.netns
def test_looking_at_settings_takes_no_privilege_and_at_live_rules_does(captured: Pod) -> None:
    """As nobody: the one answers, the other says what it takes."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    words = (*nobody, *captured.command("trace", "9.9.9.9:80"))
    done = captured.inside.run(*words, env=captured.environ())
    assert (done.returncode, "captured outbound" in done.stdout) == (0, True), done.stderr
    done = captured.inside.run(*words, "--live", env=captured.environ())
    assert (done.returncode, done.stdout) == (1, "")
    assert "not permitted to read or change the rules" in done.stderr


@pytest.mark.netns
def test_an_empty_namespace_captures_nothing() -> None:
    """It is said that there are no rules; a native table is followed, and one that is dormant is named."""
    with Pod() as pod:
        done = live(pod, "9.9.9.9:80")
        assert "the namespace holds no rules" in done.stdout
        assert "not captured" in done.stdout.splitlines()[-1]
        pod.inside.output("nft", "-f", "-", text=THEIRS)
        done = live(pod, "9.9.9.9:80")
        assert "by rule 1 of out of the table inet theirs (tcp dport 80 redirect to :8080)" in done.stdout
        pod.inside.output("nft", "-f", "-", text="table inet theirs { flags dormant; }")
        assert "the table inet theirs is dormant: the kernel asks none of its chains" in live(pod, "9.9.9.9:80").stdout


THEIRS = """
table inet theirs {
  chain out {
    type nat hook output priority -100
    tcp dport 80 redirect to :8080
  }
}
"""


@pytest.mark.netns
def test_what_cannot_be_sent_is_no_question_to_live_rules() -> None:
    """Without a route there is no packet; without --live it is taken to leave from an address of ours."""
    with Namespace("nowhere") as nowhere:
        where = ("--network-namespace", nowhere.name, "9.9.9.9:80")
        done = asked(*where, "--live")
        assert (done.returncode, done.stdout) == (1, "")
        assert "there is no way to 9.9.9.9 from here (Network is unreachable), so nothing is sent" in done.stderr
        assert "taken to be sent from 198.51.100.1" in asked(*where).stdout


@pytest.mark.netns
def test_another_namespace_can_be_asked(captured: Pod) -> None:
    """By name, from here: its addresses and its rules."""
    done = asked("--live", "--network-namespace", captured.inside.name, "--in", ":80")
    assert done.returncode == 0, done.stderr
    assert "to 10.244.0.5:80" in done.stdout
    assert "captured inbound" in done.stdout.splitlines()[-1]


@pytest.mark.netns
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_tracing_changes_nothing(backend: str, mode: str) -> None:
    """Neither in a captured namespace nor in an empty one."""
    with Pod() as pod:
        for _ in range(2):
            while " tentative" in (before := pod.state()):
                pass  # the kernel is still busy with the addresses itself, ::6 among them
            live(pod, "9.9.9.9:80")
            live(pod, "--in", ":80")
            pod.capture("trace", "9.9.9.9:80")
            assert pod.state() == before
            pod.applied("-m", mode, "--dual-stack", f"--force-iptables-binary={backend}")
