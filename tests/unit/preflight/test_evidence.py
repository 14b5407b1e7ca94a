"""What is known of a kernel from its lists of modules and its configuration, where no rule may be tried."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from capture.iptables.diagnosis import REGISTERED
from capture.preflight import modules
from capture.preflight.modules import MATCH, MISSING, OK, TARGET, UNKNOWN, Extension, all_extensions, of_extension
from rules.iptables.reading import SPOKEN_MODULES
from rules.netfilter.values import Family
from rules.plan.intent import Intent
from rules.plan.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER, REDIRECT = Extension(MATCH, "owner", Family.V4), Extension(TARGET, "REDIRECT", Family.V6)


class Node:
    """A node's files, none of which is there at first."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, name: str, *lines: str) -> None:
        (self.root / name).write_text("".join(f"{line}\n" for line in lines))

    def configured(self, *lines: str) -> None:
        (self.root / "config.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A kernel of which nothing is known."""
    registered = {of: tuple(f"{tmp_path}/{of.value}-{kind}" for kind in (MATCH, TARGET)) for of in REGISTERED}
    monkeypatch.setattr(modules, "REGISTERED", registered)
    monkeypatch.setattr(modules, "PROC_MODULES", str(tmp_path / "modules"))
    monkeypatch.setattr(modules, "SYS_MODULE", str(tmp_path / "sys"))
    monkeypatch.setattr(modules, "PROC_CONFIG", str(tmp_path / "config.gz"))
    monkeypatch.setattr(modules, "BOOT_CONFIG", str(tmp_path / "boot-config"))
    monkeypatch.setattr(modules, "MODULES_DISABLED", str(tmp_path / "modules_disabled"))
    monkeypatch.setattr(modules, "FOLDERS", (str(tmp_path),))
    forget()
    yield Node(tmp_path)
    forget()


def forget() -> None:
    for known in (modules.loaded, modules.built_in, modules.on_disk, modules.configured):
        known.cache_clear()


@pytest.mark.usefixtures("node")
def test_where_nothing_is_known_nothing_is_claimed() -> None:
    """Neither ok nor missing: the kernel will say."""
    assert of_extension(OWNER) == (UNKNOWN, "not loaded; the kernel loads it on demand, if the node has it")


@pytest.mark.parametrize(
    ("extension", "file", "line", "why"),
    [
        (OWNER, "modules", "xt_owner 16384 3 - Live 0x0", "the module xt_owner is loaded"),
        (REDIRECT, "modules", "xt_REDIRECT 16384 3 nft_compat, Live 0x0", "the module xt_REDIRECT is loaded"),
        (OWNER, "modules.builtin", "kernel/net/netfilter/xt_owner.ko", "xt_owner is built into the kernel"),
        (OWNER, "modules.dep", "kernel/net/netfilter/xt_owner.ko.xz: kernel/x.ko", "the module xt_owner is on disk"),
        (OWNER, "boot-config", "CONFIG_NETFILTER_XT_MATCH_OWNER=y", "built into the kernel"),
        (Extension(TARGET, "MARK", Family.V4), "modules", "xt_mark 1 0 - Live 0x0", "the module xt_mark is loaded"),
        (Extension(TARGET, "REJECT", Family.V6), "modules", "ip6t_REJECT 1 0", "the module ip6t_REJECT is loaded"),
        (Extension(TARGET, "DNAT", Family.V4), "modules", "xt_nat 1 0 - Live 0x0", "the module xt_nat is loaded"),
        (Extension(MATCH, "udp", Family.V4), "modules", "xt_tcpudp 1 0 - Live", "the module xt_tcpudp is loaded"),
    ],
)  # fmt: skip
def test_what_is_there_is_recognised(node: Node, extension: Extension, file: str, line: str, why: str) -> None:
    """By whatever name the kernel's parts have, in whichever list it is."""
    node.has(file, "another_module 1 0 - Live 0x0", line)
    verdict, reason = of_extension(extension)
    assert verdict == OK
    assert reason.startswith(why)


def test_another_family_is_not_taken_for_this_one(node: Node) -> None:
    """The REJECT of IPv4 is no REJECT of IPv6."""
    node.has("modules", "ipt_REJECT 1 0 - Live 0x0")
    assert of_extension(Extension(TARGET, "REJECT", Family.V4))[0] == OK
    assert of_extension(Extension(TARGET, "REJECT", Family.V6))[0] == UNKNOWN


def test_a_kernel_built_without_it_lacks_it(node: Node) -> None:
    """Its configuration is there and does not have it; what is a module may still be loaded."""
    node.configured("# CONFIG_NETFILTER_XT_MATCH_OWNER is not set", "CONFIG_NETFILTER_XT_TARGET_REDIRECT=m")
    assert of_extension(OWNER) == (
        MISSING,
        "this kernel was built without it (no CONFIG_NETFILTER_XT_MATCH_OWNER)",
    )
    assert of_extension(REDIRECT)[0] == UNKNOWN


def test_a_kernel_that_loads_no_more_modules_lacks_what_is_not_loaded(node: Node) -> None:
    """kernel.modules_disabled is 1: being on disk is of no use."""
    node.has("modules.dep", "kernel/net/netfilter/xt_owner.ko:")
    node.has("modules_disabled", "1")
    verdict, why = of_extension(OWNER)
    assert verdict == MISSING
    assert "kernel.modules_disabled" in why
    node.has("modules", "xt_owner 1 0 - Live 0x0")
    forget()
    assert of_extension(OWNER)[0] == OK


def test_what_the_plan_needs_is_read_from_its_rules() -> None:
    """The plainest capture needs these and nothing else; and all that any plan can need is listed."""
    names = {(extension.kind, extension.name) for extension in modules.extensions(plan(Intent()))}
    assert names == {(MATCH, "owner"), (MATCH, "tcp"), (TARGET, "REDIRECT")}
    known = {(extension.kind, extension.name) for extension in all_extensions(Family.V4)}
    assert names < known
    assert {(MATCH, name) for name in SPOKEN_MODULES} < known
    assert not {(TARGET, "RETURN"), (TARGET, "ACCEPT"), (TARGET, "DROP")} & known


@pytest.mark.parametrize("kind", [MATCH, TARGET])
@pytest.mark.parametrize("family", Family)
def test_what_the_kernel_has_registered_is_there(node: Node, family: Family, kind: str) -> None:
    """Of this family and kind: the other three lists say nothing of it."""
    node.has(f"{family.value}-{kind}", "tcp", "owner")
    there = {
        (of, what)
        for of in Family
        for what in (MATCH, TARGET)
        if of_extension(Extension(what, "owner", of)) == (OK, "registered in the kernel")
    }
    assert there == {(family, kind)}
