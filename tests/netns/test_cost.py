"""What a run costs is held by what it does not do: here against the kernel, in numbers by `make bench`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rules.iptables.printed import printed
from rules.iptables.quoting import command
from rules.netfilter.values import Family, Ports, network
from rules.plan.intent import Intent
from rules.plan.plan import ruleset
from tests.rig.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

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


# --- memory -----------------------------------------------------------------------------------------------

POD = 50 << 20
"""Bytes: the `memory: 50Mi` of Istio's init container."""


@contextmanager
def no_more_memory_than(limit: int) -> Iterator[str]:
    """A cgroup with this limit: the file that takes the pid of whoever is to be in it. Skips where none can be made."""
    cgroups = Path("/sys/fs/cgroup")
    is_second = (cgroups / "cgroup.controllers").exists()
    group = (cgroups if is_second else cgroups / "memory") / f"capture-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        try:
            (group / ("memory.max" if is_second else "memory.limit_in_bytes")).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"the memory of a cgroup cannot be limited here: {error}")
        yield str(group / "cgroup.procs")
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


INTO = 'echo $$ >"$1"; shift; exec "$@"'


def networks(count: int, apart: int = 0) -> str:
    """So many that no two can be merged."""
    return "\n".join(f"{1 + at // 20_000}.{at // 100 % 200}.{at % 100}.{apart}/25" for at in range(count))


@pytest.mark.parametrize("backend", ["nft", "legacy", "native"])
@pytest.mark.parametrize(("count", "limit"), [(20_000, POD), (1_000, 20 << 20)])
def test_a_long_list_fits_into_a_pod(pod: Pod, tmp_path: Path, backend: str, count: int, limit: int) -> None:
    """First apply, a change of every entry, and clean, with all the memory that they, iptables and the kernel take.

    Each in a container of its own, as in a pod: what the kernel holds of the rules is its who made them.
    """
    asked = {name: tmp_path / name for name in ("one", "other")}
    for apart, file in enumerate(asked.values()):
        file.write_text(networks(count, 128 * apart))
    chosen = "--native-nftables" if backend == "native" else f"--force-iptables-binary={backend}"
    for arguments in (*(("-u", "1337", chosen, "-x", f"@{file}") for file in asked.values()), ("clean",)):
        with no_more_memory_than(limit) as group:
            command = ("/bin/sh", "-c", INTO, "sh", group, *pod.command(*arguments))
            done = pod.inside.run(*command, env=pod.environ())
        assert done.returncode == 0, f"{arguments}: {done.stderr[-1000:]}"
    assert not [line for line in pod.saved(backend) if "ISTIO" in line]
