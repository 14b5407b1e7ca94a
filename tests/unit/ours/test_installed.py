"""What live rules capture, told from the rules themselves."""

from __future__ import annotations

import pytest

from rules.addresses import IPv4Network
from rules.netfilter.values import Family, Ports
from rules.ours.installed import installed
from rules.plan.intent import Intent
from rules.plan.plan import ruleset

V4 = Family.V4


@pytest.mark.parametrize(
    ("intent", "said"),
    [
        (Intent(), "outbound TCP → 15001, inbound TCP → 15006 (REDIRECT); the proxy is uid 1337, gid 1337"),
        (
            Intent(proxy_port=15009, inbound_capture_port=15010, proxy_uid=(1, 2), proxy_gid=(3,)),
            "outbound TCP → 15009, inbound TCP → 15010 (REDIRECT); the proxy is uid 1, uid 2, gid 3",
        ),
        (
            Intent(interception_mode="TPROXY"),
            "outbound TCP → 15001, inbound TCP → 15006 (TPROXY); the proxy is uid 1337, gid 1337",
        ),
        (
            Intent(inbound_ports=(Ports(80, 80),), outbound_cidrs=(IPv4Network("10.0.0.0/8"),)),
            "listed outbound TCP → 15001, listed inbound TCP → 15006 (REDIRECT); the proxy is uid 1337, gid 1337",
        ),
        (
            Intent(redirect_dns=True, capture_all_dns=True, inbound_ports=()),
            "outbound TCP → 15001, DNS → 15053; the proxy is uid 1337, gid 1337",
        ),
        (Intent(families=(Family.V6,)), "nothing is captured"),
    ],
)
def test_a_plan_that_is_installed_is_told_back(intent: Intent, said: str) -> None:
    """Its ports, how much it takes, how, and whom it takes for the proxy."""
    assert str(installed(ruleset(intent, V4))) == said
