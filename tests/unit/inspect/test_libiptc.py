"""What libiptc shows, in the words of iptables-save, and where the two witnesses differ."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from capture.errors import BackendUnusable, LiveStateUnreadable
from capture.host.live import read_live
from capture.inspect.libiptc import differences, libiptc_differences, tables_of, with_prefix_length, words_of
from capture.iptables.iptables import LEGACY, NFT
from capture.kernel.process import LEGACY_TABLES, Completed
from capture.kernel.seam import standing_in
from rules.iptables.reading import tables
from rules.netfilter.values import Family
from tests.rig.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:A - [0:0]
-A OUTPUT -p tcp -j A
-A A -d 10.0.0.0/8 -p tcp -m tcp --dport 80 -j RETURN
-A A -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""


@pytest.fixture
def kernel() -> Iterator[Memory]:
    with standing_in(Memory("127.0.0.1/8", "10.244.0.5/24")) as memory:
        assert isinstance(memory, Memory)
        yield memory


def extension(name: str, option: str = "", *values: str, goto: bool = False) -> SimpleNamespace:
    options = {option: list(values)} if option else {}
    return SimpleNamespace(name=name, goto=goto, get_all_parameters=lambda: options)


def rule(**told: object) -> SimpleNamespace:
    """A rule as python-iptables has it: what is not asked is 0.0.0.0/0.0.0.0, None, or `ip`."""
    anything: dict[str, object] = {
        "src": "0.0.0.0/0.0.0.0",
        "dst": "0.0.0.0/0.0.0.0",
        "in_interface": None,
        "out_interface": None,
        "protocol": "ip",
        "fragment": False,
        "matches": [],
        "target": extension("RETURN"),
    }
    return SimpleNamespace(**{**anything, **told})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "-j RETURN"),
        ({"dst": "10.0.0.0/255.0.0.0", "protocol": "tcp"}, "-d 10.0.0.0/8 -p tcp -j RETURN"),
        ({"src": "!1.2.3.4/255.255.255.255"}, "! -s 1.2.3.4/32 -j RETURN"),
        ({"in_interface": "!eth0", "out_interface": "lo"}, "! -i eth0 -o lo -j RETURN"),
        ({"protocol": "!udp", "fragment": True}, "! -p udp -f -j RETURN"),
        ({"target": extension("NEXT", goto=True)}, "-g NEXT"),
        ({"target": None}, ""),
        ({"target": extension("REDIRECT", "to-ports", "15001")}, "-j REDIRECT --to-ports 15001"),
        ({"matches": [extension("owner", "uid-owner", "!", "5")]}, "-m owner ! --uid-owner 5 -j RETURN"),
    ],
)
def test_a_rule_is_said_as_iptables_save_says_it(told: dict[str, object], said: str) -> None:
    assert " ".join(words_of(rule(**told))) == said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("10.1.2.3/255.255.255.255", "10.1.2.3/32"),
        ("0.0.0.0/0.0.0.0", "0.0.0.0/0"),
        ("fd00::/ffff::", "fd00::/16"),
        ("fd00::1/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::1/128"),
        ("10.0.0.0/255.0.255.0", "10.0.0.0/255.0.255.0"),
        ("fd00::/ffff:0:ffff::", "fd00::/ffff:0:ffff::"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_mask_is_a_prefix_length_where_it_is_one(told: str, said: str) -> None:
    assert with_prefix_length(told) == said


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("", "", []),
        ("--to-ports 15001", "--to-ports 15002", [("A", "rule 2")]),
        ("-A A -d 10.0.0.0/8 -p tcp -m tcp --dport 80 -j RETURN\n", "", [("A", "rule 1")]),
        (":OUTPUT ACCEPT", ":OUTPUT DROP", [("OUTPUT", "policy")]),
        (":A - [0:0]", ":A - [0:0]\n:B - [0:0]", [("B", "chain")]),
        ("COMMIT", "COMMIT\n*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT", [("", "table")]),
    ],
)
def test_where_the_witnesses_differ(before: str, after: str, found: list[tuple[str, str]]) -> None:
    """What one says and the other does not, by chain and place; each way round."""
    one, other = tables(NAT), tables(NAT.replace(before, after) if before else NAT)
    for text, libiptc in ((one, other), (other, one)):
        assert [(each.chain, each.what) for each in differences(Family.V4, text, libiptc)] == found


def test_each_witness_is_quoted() -> None:
    one, other = tables(NAT), tables(NAT.replace("15001", "15002"))
    (found,) = differences(Family.V4, one, other)
    assert (found.text, found.libiptc) == ("-p tcp -j REDIRECT --to-ports 15001", "-p tcp -j REDIRECT --to-ports 15002")


def test_spelling_is_no_difference() -> None:
    """`-p 47` and `-p gre` ask the same, and so does a comment that libiptc spells with other words."""
    one = tables("*nat\n-A OUTPUT -p 47 -m comment --comment x -j ACCEPT\nCOMMIT\n")
    other = tables('*nat\n-A OUTPUT -p gre -m comment --comment "x" -j ACCEPT\nCOMMIT\n')
    assert differences(Family.V4, one, other) == []


def told(chains: dict[str, list[list[str]]]) -> Completed:
    policies = dict.fromkeys(("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), "ACCEPT")
    chains = {**{chain: [] for chain in policies}, **chains}
    return Completed(0, json.dumps({"nat": {"policies": policies, "chains": chains}}), "")


def test_a_child_answers_for_each_family(kernel: Memory) -> None:
    """Where both say the same there is no difference; a rule that only one of them has is one."""
    kernel.load(LEGACY, Family.V4, NAT)
    own = [line.split()[2:] for line in NAT.splitlines() if line.startswith("-A A")]
    own_answer = told({"OUTPUT": [["-p", "tcp", "-j", "A"]], "A": own})
    asked = iter([own_answer, Completed(0, "{}", ""), told({"A": own}), Completed(0, "{}", "")])
    kernel.answers = lambda program: next(asked) if program.startswith("python") else None
    assert libiptc_differences(read_live(), LEGACY) == []
    (found,) = libiptc_differences(read_live(), LEGACY)
    assert (found.chain, found.text, found.libiptc) == ("OUTPUT", "-p tcp -j A", "")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Completed(3, "", "no module\n"), BackendUnusable, "is not installed"),
        (Completed(4, "", "permission denied"), LiveStateUnreadable, "ended with status 4"),
        (Completed(-9, "", ""), LiveStateUnreadable, "was ended by signal 9"),
        (Completed(0, "no JSON", ""), LiveStateUnreadable, "cannot be understood"),
        (Completed(0, '{"nat": {}}', ""), LiveStateUnreadable, "cannot be understood"),
    ],
)
def test_a_child_that_cannot_answer_is_told(
    kernel: Memory, answer: Completed, error: type[Exception], said: str
) -> None:
    kernel.answers = lambda _: answer
    with pytest.raises(error, match=said):
        tables_of("ipv4")


@pytest.mark.parametrize(
    ("complaint", "told"), [("Traceback\npermission denied\n", "permission denied"), ("", "nothing")]
)
def test_what_a_child_complained_of_is_told(kernel: Memory, complaint: str, told: str) -> None:
    """Its last line, or that it said nothing."""
    kernel.answers = lambda _: Completed(4, "", complaint)
    with pytest.raises(LiveStateUnreadable) as refused:
        tables_of("ipv4")
    assert refused.value.details == (("it said", told),)


def test_whom_libiptc_cannot_see_it_does_not_judge(kernel: Memory) -> None:
    """The nft backend, and legacy tables that only another user may list: asking would make them."""
    with pytest.raises(BackendUnusable, match="sees the legacy backend only"):
        libiptc_differences(read_live(), NFT)
    kernel.unreadable = set(LEGACY_TABLES.values())
    with pytest.raises(BackendUnusable, match="only uid 0 may read"):
        libiptc_differences(read_live(), LEGACY)
