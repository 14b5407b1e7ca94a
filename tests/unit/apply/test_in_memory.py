"""Whole runs and commands on a kernel in memory: the order of acts, undoing, removing, and what is said of it.

`tests/netns/test_seam.py` holds that kernel against the real one.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import redirect_stdout
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import pytest

from capture import init
from capture.commands.base import main
from capture.errors import DIFFERS, DONE, FAILED, NOTHING_HERE, CaptureError
from capture.host.place import Process
from capture.iptables.iptables import LEGACY, NFT
from capture.kernel.conntrack import CLOSE_WAIT, CLOSE_WAIT_FILE
from capture.kernel.process import LEGACY_TABLES, Completed
from capture.kernel.seam import standing_in
from capture.netlink import messages
from capture.output import Output
from rules.connections.flow import ESTABLISHED, LISTEN
from rules.netfilter.values import Family
from tests.rig.chance import QUICK, SEED
from tests.rig.memory import Memory, everything

if TYPE_CHECKING:
    from collections.abc import Iterator

POD = ("127.0.0.1/8", "::1/128", "10.244.0.5/24", "fd00:244::5/64")
ENVIRON = {"LOG_OUTPUT_LEVEL": "warn", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
BACKENDS = (NFT, LEGACY)
PLAIN = ("-u", "1337")
DUAL_TPROXY = ("-u", "1337", "--dual-stack", "-m", "TPROXY", "--capture-all-dns", "--redirect-dns", "--drop-invalid")
SETTINGS = (
    PLAIN,
    ("-u", "1338", "--ipv6", "on", "-o", "22,80"),
    DUAL_TPROXY,
    ("-u", "1337", "--ipv6", "reject", "--udp", "443=drop"),
)
OTHERS = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:THEIRS - [0:0]
-A PREROUTING -i eth7 -j THEIRS
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
-A THEIRS -p tcp -m comment --comment "not \\"ours\\"" -m tcp --dport 1 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


@pytest.fixture
def kernel() -> Iterator[Memory]:
    with standing_in(Memory(*POD)) as memory:
        assert isinstance(memory, Memory)
        yield memory


def run(*argv: str) -> int:
    return init.run(argv, ENVIRON)


class Answer(NamedTuple):
    """What a command printed, and how it ended."""

    exit_code: int
    stdout: str


def command(*argv: str) -> Answer:
    """Run a command with a stream of ours, as the program does, that leads into a file."""
    with (
        TemporaryFile() as file,
        patch.dict(os.environ, ENVIRON),
        redirect_stdout(Output(file.fileno(), "utf-8", must_be_heard=True)),
    ):
        try:
            main(argv)
        except SystemExit as end:
            status = end.code
        except CaptureError as error:
            status = error.exit_status
        assert isinstance(status, int)
        file.seek(0)
        return Answer(status, file.read().decode())


def test_a_plain_capture_is_one_act(kernel: Memory) -> None:
    """One commit of one table, with other runs kept out; a rerun does nothing."""
    assert run(*PLAIN) == DONE
    assert kernel.acts == ["lock", "iptables-nft-restore nat", "unlock"]
    kernel.acts.clear()
    assert run(*PLAIN) == DONE
    assert kernel.acts == ["lock", "unlock"]


def test_what_rules_need_comes_before_them_and_goes_after_them(kernel: Memory) -> None:
    """Addresses, routes and ip rules first and last; IPv6, which is refused more often, before IPv4."""

    def position(act: str) -> int:
        return next(at for at, done in enumerate(kernel.acts) if done.startswith(act))

    assert run(*DUAL_TPROXY) == DONE
    assert position("address add") < position("IPv4 route add") < position("IPv4 rule add")
    assert position("IPv6 rule add") < position("ip6tables-nft-restore mangle") < position("iptables-nft-restore raw")
    kernel.acts.clear()
    assert run("--cleanup-only") == DONE
    assert position("iptables-nft-restore raw") < position("let packets pass") < position("IPv4 rule del")
    assert position("IPv4 rule del") < position("IPv4 route del")


def test_a_table_that_hands_over_waits_for_packets_on_their_way(kernel: Memory) -> None:
    """Between the commits of two tables of a family that is captured and stays so, and not for a new pod."""
    assert run(*PLAIN) == DONE
    assert "let packets pass" not in kernel.acts
    kernel.acts.clear()
    assert run(*PLAIN, "-m", "TPROXY") == DONE
    commits = [act for act in kernel.acts if act.startswith(("iptables", "let"))]
    assert commits == ["iptables-nft-restore mangle", "let packets pass", "iptables-nft-restore nat"]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_half_open_is_forgotten_when_redirect_is_there_and_tproxy_still_is(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind the pause after nat's commit, before mangle's; on no other change."""
    force, told = f"--force-iptables-binary={backend}", {**ENVIRON, "LOG_OUTPUT_LEVEL": "info"}
    for before, after, forgets in ((DUAL_TPROXY, PLAIN, 1), (PLAIN, DUAL_TPROXY, 0), (DUAL_TPROXY, SETTINGS[3], 1)):
        assert init.run([force, *before], ENVIRON) == DONE
        capsys.readouterr()
        assert init.run([force, *after], told) == DONE
        said = capsys.readouterr().err
        assert (said.count("conntrack -D, for each inbound IPv4") > 0) is bool(forgets)
        if forgets:
            of_ipv4 = said[said.index(f"iptables-{backend}-restore --noflush") :]
            assert of_ipv4.index("*nat") < of_ipv4.index("conntrack -D") < of_ipv4.index("*mangle")


def test_conntrack_is_told_of_what_is_open_between_the_chains_and_the_jumps(kernel: Memory) -> None:
    """Where somebody has a socket or had a connection, and may open one. In a new pod, and beside ours, no such act."""
    restore, listening = "iptables-nft-restore nat", (LISTEN, 80, 0)
    assert run(*PLAIN) == DONE
    assert kernel.acts == ["lock", restore, "unlock"]
    for sockets, opened, told in (
        ([listening], 0, []),
        ([], 1, []),
        ([listening, (ESTABLISHED, 80, 50000)], 2, ["1 requests to netlink protocol 12"]),
    ):
        assert run("--cleanup-only") == DONE
        kernel.sockets, kernel.opened = sockets, opened
        kernel.acts.clear()
        assert run(*PLAIN) == DONE
        assert kernel.acts == ["lock", restore, *told, restore, "unlock"]
    kernel.acts.clear()
    assert run(*PLAIN, "-o", "22") == DONE
    assert kernel.acts == ["lock", restore, "unlock"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("before", [(), PLAIN, DUAL_TPROXY], ids=str)
@pytest.mark.parametrize("after", [*SETTINGS, ("--cleanup-only",)], ids=str)
@pytest.mark.parametrize("opened", [0, 1], ids=["new", "used"])
def test_whichever_act_is_refused_all_is_as_it_was(
    backend: str, before: tuple[str, ...], after: tuple[str, ...], opened: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every act of a change is refused in turn, once: the run fails with words and nothing of it stays, or tries again.

    What is taken away when all else is proved is no part of it: it stays, with a warning.
    Where somebody waits, every other act is.
    """
    step = 2 if QUICK else 1
    force = f"--force-iptables-binary={backend}"
    place = 0
    while True:
        with standing_in(Memory(*POD)) as kernel:
            assert isinstance(kernel, Memory)
            kernel.load(backend, Family.V4, OTHERS)
            kernel.opened = opened
            if before:
                assert run(force, *before) == DONE
            was = everything(kernel)
            kernel.acts.clear()
            numbers = iter(range(100))
            kernel.refuse = lambda _act, refused=place, at=numbers: errno.EIO if next(at) == refused else None  # type: ignore[misc] # bound here
            capsys.readouterr()
            status = run(force, *after)
            if not place:  # the lock, which is no act of a run's transaction
                assert status == FAILED
                place = 1 + SEED % step
                continue
            acts = kernel.acts
            if place >= len(acts) - 1:
                assert status == DONE
                return
            refused, said = acts[place], capsys.readouterr().err
            if "nft delete" in refused:
                assert "was left behind" in said
            elif status == DONE:
                # A legacy table that was only asked for is there: that reads as a change by others, and a second look.
                assert "trying again" in said, refused
            else:
                assert status == FAILED, refused
                assert "as it was" in said
                assert everything(kernel) == was, refused
        place += step


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_clean_leaves_what_was_there(backend: str, settings: tuple[str, ...]) -> None:
    """The rules of others, and nothing else; a second one finds nothing of ours."""
    with standing_in(Memory(*POD)) as kernel:
        assert isinstance(kernel, Memory)
        kernel.load(backend, Family.V4, OTHERS)
        was = everything(kernel)
        assert run(f"--force-iptables-binary={backend}", *settings) == DONE
        assert everything(kernel) != was
        cleaned = command("clean")
        assert cleaned.exit_code == DONE
        assert "nothing of ours is left" in cleaned.stdout
        if backend == NFT:
            assert everything(kernel) == was
        else:  # a legacy table cannot be taken back: what the others had is as it was, and the rest is empty
            assert [kernel.saved(LEGACY, Family.V4).count("-A"), kernel.saved(LEGACY, Family.V6).count("-A")] == [4, 0]
        assert "nothing of ours was here" in command("clean").stdout


def test_a_node_is_captured_where_that_is_allowed_and_can_always_be_cleaned(kernel: Memory) -> None:
    """What was done there with --allow-host is removed without it."""
    kernel.load(NFT, Family.V4, "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n")
    was = everything(kernel)
    assert run(*PLAIN) == FAILED
    assert everything(kernel) == was
    assert run(*PLAIN, "--allow-host") == DONE
    assert everything(kernel) != was
    assert run("--cleanup-only") == DONE
    assert "ISTIO" not in kernel.saved(NFT, Family.V4)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_verify_sees_every_rule_that_is_gone(settings: tuple[str, ...]) -> None:
    """It ends with 0 behind a run, with 4 when any one rule of ours was deleted, and with 3 where nothing is.

    Where somebody waits, every tenth rule is deleted.
    """
    with standing_in(Memory(*POD)) as kernel:
        assert isinstance(kernel, Memory)
        assert command("verify", *settings).exit_code == NOTHING_HERE
        assert run(*settings) == DONE
        verified = command("verify", *settings)
        assert verified.exit_code == DONE, verified.stdout
        every = [
            (name, chain, rules, at)
            for name, table in kernel.tables.items()
            for chain, rules in table.chains.items()
            for at in range(len(rules))
        ]
        for name, chain, rules, at in every[SEED % 10 :: 10] if QUICK else every:
            rule = rules.pop(at)
            found = command("verify", "--output=json", *settings)
            assert found.exit_code == DIFFERS, (name, chain, rule)
            assert chain in found.stdout
            rules.insert(at, rule)
        assert command("verify", *settings).exit_code == DONE


def test_status_tells_what_is_captured(kernel: Memory) -> None:
    """Before, during and after, as text and as JSON."""
    assert command("status").exit_code == NOTHING_HERE
    assert run(*PLAIN, "-p", "15011") == DONE
    told = command("status")
    assert told.exit_code == DONE
    assert "15011" in told.stdout
    assert json.loads(command("status", "--output=json").stdout)
    kernel.tables[(NFT, Family.V4, "nat")].chains["ISTIO_REDIRECT"].clear()
    assert "15011" not in command("status").stdout


def test_what_cannot_be_read_is_never_nothing(kernel: Memory) -> None:
    """Neither a save that fails nor a netlink that cannot be asked for a moment reads as an empty namespace."""
    assert run(*PLAIN) == DONE
    was = everything(kernel)
    kernel.answers = lambda name: Completed(1, "", "no") if name.endswith("save") else None
    assert run("-u", "1338") == FAILED
    assert command("clean").exit_code == FAILED
    assert command("status").exit_code == FAILED
    assert everything(kernel) == was


def test_a_backend_that_is_not_there_is_an_answer_and_one_that_is_denied_is_none(kernel: Memory) -> None:
    """Without nf_tables the legacy backend is used; without permission to ask, none."""
    kernel.silent[messages.NETLINK_NETFILTER] = errno.EPERM
    assert run(*PLAIN) == FAILED
    assert [act for act in kernel.acts if "restore" in act] == []
    kernel.silent[messages.NETLINK_NETFILTER] = errno.EPROTONOSUPPORT
    assert run(*PLAIN) == DONE
    assert "iptables-legacy-restore nat" in kernel.acts


@pytest.mark.parametrize("unreadable", [(), tuple(LEGACY_TABLES.values())], ids=["root", "another user"])
def test_clean_says_of_legacy_tables_only_that_it_may_not_see_them(kernel: Memory, unreadable: tuple[str, ...]) -> None:
    """Where only uid 0 may read which there are, they are named as left; to root there is nothing to say."""
    assert run(*PLAIN) == DONE
    kernel.unreadable = set(unreadable)
    answer = json.loads(command("clean", "--output", "json").stdout)
    assert [(it["where"], it["what"]) for it in answer["left"] if it["where"] == "legacy"] == (
        [("legacy", "tables, if there are any")] if unreadable else []
    )


@pytest.mark.parametrize("may_be_read", [True, False])
def test_clean_says_nothing_of_a_timeout_that_it_may_not_read(kernel: Memory, *, may_be_read: bool) -> None:
    """As where /proc is not mounted; it cleans all the same. One that can be read and was changed is named as left."""
    assert run(*PLAIN) == DONE
    kernel.sysctls[CLOSE_WAIT_FILE] = "30"
    kernel.unreadable = set() if may_be_read else {CLOSE_WAIT_FILE}
    answer = command("clean", "--output", "json")
    assert answer.exit_code == DONE
    left = [it["what"] for it in json.loads(answer.stdout)["left"] if it["where"] == "conntrack"]
    assert left == ([f"{CLOSE_WAIT} = 30"] if may_be_read else [])


def test_clean_tells_what_it_left_and_says_no_more_in_the_log(
    kernel: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rules of others, by table and number. Its answer is on stdout, so the log has what went wrong alone."""
    kernel.load(NFT, Family.V4, OTHERS)
    assert run(*PLAIN) == DONE
    with patch.dict(ENVIRON, {"LOG_OUTPUT_LEVEL": "info"}):
        told = command("clean").stdout
    left = told.partition("left alone\n")[2].splitlines()
    assert [line for line in left if "nat" in line and "3 rules (of others)" in line]
    assert [line for line in left if "filter" in line and "1 rule (of others)" in line]
    assert "Running" not in capsys.readouterr().err
    assert run(*PLAIN) == DONE
    with patch.dict(ENVIRON, {"LOG_OUTPUT_LEVEL": "debug"}):
        command("clean")
    assert "Running" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [(), ("-n", "--force-iptables-binary=nft")], ids=["a run", "a dry run"])
def test_who_listens_in_the_place_of_the_proxy_is_said(
    kernel: Memory, capsys: pytest.CaptureFixture[str], dry: tuple[str, ...]
) -> None:
    """Where anybody is in the namespace yet, and somebody else listens where the rules will send things."""
    kernel.sockets, kernel.uid = [(LISTEN, 15001, 0)], 1000
    assert run(*PLAIN, *dry) == DONE
    assert "15001" not in capsys.readouterr().err
    kernel.residents = (Process(2, "app", 1000, 1000),)
    assert run(*PLAIN, *dry) == DONE
    assert "outbound TCP → 15001: " in capsys.readouterr().err
