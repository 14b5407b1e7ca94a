"""What a run costs is held by what it does not do: here against the kernel, in numbers by `make bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.iptables.printed import printed
from rules.iptables.quoting import command
from rules.netfilter.values import Family, Ports, network
from rules.plan.intent import Intent
from rules.plan.plan import ruleset

if TYPE_CHECKING:
    from tests.rig import Pod


def test_what_the_kernel_prints_of_a_usual_plan_is_known_at_sight(pod: Pod, backend: str) -> None:
    """Each line, so that none is read word by word: with ports, networks and interfaces left out, in both families."""
    pod.applied(
        *("-u", "1337", "-c", "eth9", "-d", "15090,15021", "-o", "22,8000:8080", "--dual-stack"),
        *("-x", "10.0.0.0/8,192.0.2.7,2001:db8::/32", f"--force-iptables-binary={backend}"),
    )
    intent = Intent(
        families=tuple(Family),
        proxy_uid=(1337,),
        proxy_gid=(1337,),
        exclude_interfaces=("eth9",),
        inbound_ports_exclude=(Ports(15090, 15090), Ports(15021, 15021)),
        outbound_ports_exclude=(Ports(22, 22), Ports(8000, 8080)),
        outbound_cidrs_exclude=tuple(map(network, ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"))),
    )
    for family, program in ((Family.V4, "iptables"), (Family.V6, "ip6tables")):
        lines = pod.inside.output(f"{program}-{backend}-save").splitlines()
        found = {command(line)[2] for line in lines if line.startswith("-A ")}
        assert found == {printed(rule) for _, _, rule in ruleset(intent, family).rules()}
