"""What stands around a picture of the chains: who said what, and what the picture does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture import init
from capture.commands.graph import (
    MOST_SAID,
    as_said,
    live_pictures,
    notes_on_the_other,
    notes_on_the_plan,
    planned_pictures,
    shortened,
)
from capture.errors import DONE, NOTHING_HERE
from capture.iptables.iptables import LEGACY
from capture.kernel.seam import standing_in
from capture.settings.declared import Settings
from rules.addresses import IPv4Network
from rules.netfilter.values import Family, Ports
from rules.plan.intent import Intent
from rules.plan.plan import plan
from tests.rig.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V6 = Family.V4, Family.V6
BOTH = Intent(families=(V4, V6))
OTHERS = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def kernel() -> Iterator[Memory]:
    with standing_in(Memory("127.0.0.1/8", "10.244.0.5/24")) as memory:
        assert isinstance(memory, Memory)
        yield memory


def test_a_long_list_is_told_by_its_beginning() -> None:
    """As many as fit, and how many there are."""
    fits = ",".join(map(str, range(MOST_SAID)))
    assert shortened(fits) == fits
    assert shortened(f"{fits},99,100") == f"{fits},… (18 in all)"


def test_what_was_said_is_told_as_one_writes_it() -> None:
    """Flags and variables, each in its place; what has no part in the rules is left out, and so are defaults."""
    settings = Settings.load(
        ["-o", "22", "-x", "", "--drop-invalid", "--probe-timeout", "3s"], {"PROXY_UID": "1338", "ENVOY_PORT": "15009"}
    )
    flags, variables = (list(as_said(settings, kind)) for kind in ("flag", "environment"))
    assert "--drop-invalid" in flags
    assert {each.partition(" ")[2] for each in flags if each != "--drop-invalid"} == {"22", '""'}
    assert not any("probe-timeout" in each for each in flags)
    assert sorted(variables) == ["ENVOY_PORT=15009", "PROXY_UID=1338"]


@pytest.mark.parametrize(
    ("intent", "drawn", "said"),
    [
        (BOTH, (V4,), "IPv6 has the same rules with its own addresses: --family ipv6."),
        (BOTH, (V6,), "IPv4 has the same rules with its own addresses: --family ipv4."),
        (
            BOTH.but(outbound_cidrs_exclude=(IPv4Network("10.0.0.0/8"),)),
            (V4,),
            "IPv6 has other rules: --family ipv6.",
        ),
        (Intent(families=(V4,)), (V4,), "IPv6 is not captured: there are no rules."),
    ],
)
def test_the_family_that_is_not_drawn_is_told_of(intent: Intent, drawn: tuple[Family, ...], said: str) -> None:
    rulesets = {ruleset.family: ruleset for ruleset in plan(intent).rulesets}
    assert list(notes_on_the_other(rulesets, drawn)) == [said]
    assert list(notes_on_the_other(rulesets, (V4, V6))) == []


def test_what_no_chain_shows_is_told() -> None:
    """Routing in TPROXY mode and the address of IPv6, each where its family is drawn."""
    tproxy = plan(BOTH.but(interception_mode="TPROXY", tproxy_mark=1337, tproxy_route_table=133))
    for family in Family:
        told = list(notes_on_the_plan(tproxy, family))
        assert "mark 0x539 looks up table 133" in told[0]
        assert len(told) == (2 if family is V6 else 1)
    assert list(notes_on_the_plan(plan(Intent(families=(V4,))), V4)) == []
    assert list(notes_on_the_plan(plan(Intent(families=(V4,))), V6)) == ["IPv6 is not captured: there are no rules."]


def test_each_family_has_a_picture() -> None:
    settings = Settings.load(["-o", "22"], {})
    intent = BOTH.but(outbound_ports_exclude=(Ports(22, 22),))
    titles = [each.title for each in planned_pictures(settings, intent, (V4, V6))]
    assert titles == ["Where traffic goes: IPv4", "Where traffic goes: IPv6"]


def test_a_live_picture_tells_of_what_it_leaves_out(kernel: Memory) -> None:
    """The other backend and the other family, and that nothing of ours is here."""
    settings = Settings.load([], {})
    (empty,), status = live_pictures(settings, (V4,))
    assert status == NOTHING_HERE
    assert [note for note in empty.notes if "holds no rules here" in note]
    kernel.load(LEGACY, V4, OTHERS)
    assert init.run(("-u", "1337", "--force-iptables-binary", "nft"), {"LOG_OUTPUT_LEVEL": "error"}) == DONE
    (full,), status = live_pictures(settings, (V4,))
    assert status == DONE
    assert "The legacy backend holds 1 rule as well: --force-iptables-binary=legacy." in full.notes
    assert "IPv6 has no rules." in full.notes
