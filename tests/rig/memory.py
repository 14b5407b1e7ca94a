"""A kernel in memory behind the seam: tables of both backends, ip rules, routes and addresses, and refusals on demand.

It knows of iptables what a run of ours relies on: each table is committed as a whole, `-D` takes the first rule that
reads so, a chain that is used or not empty cannot be deleted, a jump needs its chain. It keeps rules as text, as the
kernel prints them. `tests/netns/test_seam.py` holds it against the kernel of the host.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from capture.errors import NamespaceUnusable
from capture.host.place import SOCKET_COUNTS, TCP_COUNTS
from capture.iptables.iptables import LEGACY, NFT, PROGRAM
from capture.kernel import seam
from capture.kernel.conntrack import CLOSE_WAIT_FILE, DEFAULT_CLOSE_WAIT
from capture.kernel.process import LEGACY_TABLES, Completed
from capture.netlink import messages, nftables, rtnetlink, sockets, tidying
from rules.iptables import reading
from rules.iptables.quoting import tokens
from rules.iptables.writing import rule_text
from rules.live.routing import OUR_METRIC
from rules.netfilter.values import BUILT_IN, Family
from rules.plan.names import PASSTHROUGH, PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from capture.host.place import Process
    from rules.simulator.simulate import Address

ORDER = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
TABLES = ("raw", "mangle", "nat", "filter", "security")
NUMBERS = {Family.V4: 2, Family.V6: 10}
LO = 1
UNIVERSE, HOST, RTN_LOCAL, FR_ACT_TO_TBL = 0, 254, 2, 1


class Refused(Exception):
    """A line of restore input that the kernel refuses, in the words of the tool."""


@dataclass
class Table:
    """A table of one family: its chains in the order of their making, each with its rules as text."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    """The built-in chains that there are: nf_tables has those that somebody needed, legacy all of them."""
    handles: dict[str, int] = field(default_factory=dict)
    """Of the chains: rising numbers in the order of their making."""
    last: int = 0

    def make(self, chain: str) -> None:
        """Give a chain that comes into being its handle."""
        if chain not in self.handles:
            self.last += 1
            self.handles[chain] = self.last

    def forget(self, chain: str) -> None:
        self.handles.pop(chain, None)

    def uses(self, chain: str) -> int:
        """How many rules it has, and how many lead to it, as nf_tables counts the use of a chain."""
        leading = (line for lines in self.chains.values() for line in lines)
        return len(self.chains.get(chain, ())) + sum(
            chain in (led_to(line, "-j"), led_to(line, "-g")) for line in leading
        )


def led_to(line: str, option: str) -> str:
    words = tokens(line)
    return words[words.index(option) + 1] if option in words[:-1] else ""


class Memory:
    """A network namespace that is not there. `refuse` is asked before each act, and refuses it by an answer."""

    def __init__(self, *addresses: str) -> None:
        self.tables: dict[tuple[str, Family, str], Table] = {}
        self.natives: list[tuple[int, str]] = []
        """Tables of nf_tables in other families: the number of the family, and the name."""
        self.owned: dict[tuple[Family, str], int] = {}
        """The netlink ports that alone may change a table of nf_tables."""
        self.rules: list[tuple[Family, int, int, int, int]] = []
        """Priority, mark, table, protocol."""
        self.routes: list[tuple[Family, int, int]] = []
        """Local default routes: table and protocol."""
        self.addresses = [(ip_interface(address), 0) for address in addresses]
        """With their protocols."""
        self.installed = {
            f"{program}-{backend}-{verb}"
            for program in PROGRAM.values()
            for backend in (NFT, LEGACY)
            for verb in ("save", "restore")
        }
        self.sockets: list[tuple[int, int, int]] = []
        """Those of TCP: state, port and that of the peer. Both are at 127.0.0.1."""
        self.inode = 0
        """Of each of them: 0 where its process has closed it."""
        self.opened = 0
        """How many connections were opened here."""
        self.residents: tuple[Process, ...] = ()
        """Who else is there."""
        self.uid = 0
        """Whose they are."""
        self.acts: list[str] = []
        """What was asked for that changes something, in order."""
        self.refuse: Callable[[str], int | Exception | None] = lambda _act: None
        """By an error number, or by an error that is raised as it stands."""
        self.answers: Callable[[str], Completed | None] = lambda _program: None
        """What a program answers instead of doing its work."""
        self.silent: dict[int, int] = {}
        """The error number with which a netlink protocol is not to be had."""
        self.unreadable: set[str] = set()
        """Files of the kernel that this user may not read."""
        self.has_legacy = True
        self.has_lo_up: bool | None = True
        self.sysctls = {CLOSE_WAIT_FILE: str(DEFAULT_CLOSE_WAIT)}
        """By the files that stand for them."""
        self.others: dict[str, Memory] = {}
        """Other namespaces, by the names by which they can be entered."""

    # --- what is asked ------------------------------------------------------------------------------------

    def locate(self, program: str) -> str | None:
        return f"/sbin/{program}" if program in self.installed else None

    def processes(self) -> tuple[Process, ...]:
        return self.residents

    @staticmethod
    def chosen_source(family: Family, destination: Address, port: int) -> Address:  # noqa: ARG004 # nowhere leads out
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    def read_words(self, path: str) -> list[str] | None:
        if path in self.unreadable:
            return None
        for family, names in LEGACY_TABLES.items():
            if path == names:
                return [name for backend, of, name in self.tables if backend == LEGACY and of is family]
        if path in self.sysctls:
            return [self.sysctls[path]]
        if path == SOCKET_COUNTS[0]:
            return ["TCP:", "inuse", str(len(self.sockets)), "orphan", "0"]
        if path == TCP_COUNTS:
            return ["Tcp:", "MaxConn", "ActiveOpens", "PassiveOpens", "Tcp:", "-1", str(self.opened), "0"]
        return []

    def dump(self, protocol: int, question: int, payload: bytes) -> list[bytes]:
        if protocol in self.silent:
            raise OSError(self.silent[protocol], "")
        if protocol == sockets.NETLINK_SOCK_DIAG:
            return list(self.told_sockets(payload))
        told: Iterable[bytes] = {
            nftables.NFT_MSG_GETTABLE: self.told_tables,
            nftables.NFT_MSG_GETCHAIN: self.told_chains,
            nftables.NFT_MSG_GETRULE: self.told_nft_rules,
            rtnetlink.RTM_GETADDR: self.told_addresses,
            rtnetlink.RTM_GETROUTE: self.told_routes,
            rtnetlink.RTM_GETRULE: self.told_rules,
        }.get(question, list)()
        return [message for message in told if payload[0] in (0, message[0])]

    def told_sockets(self, request: bytes) -> Iterator[bytes]:
        family, protocol, _, states = sockets.REQUEST.unpack(request)
        if (family, protocol) == (NUMBERS[Family.V4], sockets.PROTOCOLS["tcp"]):
            here = bytes([127, 0, 0, 1])
            for state, *ports in self.sockets:
                if states & 1 << state:
                    ends = (port.to_bytes(2, "big") for port in ports)
                    yield sockets.MESSAGE.pack(family, state, *ends, here, here, *[0] * 6, self.uid, self.inode)

    def told_tables(self) -> Iterator[bytes]:
        for backend, family, name in self.tables:
            if backend == NFT:
                named = attribute(nftables.NFTA_TABLE_NAME, name.encode() + b"\0")
                port = self.owned.get((family, name))
                flags = nftables.NFT_TABLE_F_OWNER if port else 0
                yield (
                    nfgenmsg(NUMBERS[family])
                    + named
                    + attribute(nftables.NFTA_TABLE_FLAGS, struct.pack(">I", flags))
                    + (attribute(nftables.NFTA_TABLE_OWNER, struct.pack(">I", port)) if port else b"")
                )
        for number, name in self.natives:
            yield nfgenmsg(number) + attribute(nftables.NFTA_TABLE_NAME, name.encode() + b"\0")

    def told_chains(self) -> Iterator[bytes]:
        for (backend, family, name), table in self.tables.items():
            for chain in (
                (*table.made, *(own for own in table.chains if own not in table.made)) if backend == NFT else ()
            ):
                yield (
                    nfgenmsg(NUMBERS[family])
                    + attribute(nftables.NFTA_CHAIN_TABLE, name.encode() + b"\0")
                    + attribute(nftables.NFTA_CHAIN_NAME, chain.encode() + b"\0")
                    + attribute(nftables.NFTA_CHAIN_USE, struct.pack(">I", table.uses(chain)))
                    + attribute(nftables.NFTA_CHAIN_HANDLE, struct.pack(">Q", table.handles[chain]))
                    + (base_chain(name, chain, table.policies.get(chain, "ACCEPT")) if chain in table.made else b"")
                )

    def told_nft_rules(self) -> Iterator[bytes]:
        for (backend, family, name), table in self.tables.items():
            for chain, rules in table.chains.items() if backend == NFT else ():
                of = attribute(nftables.NFTA_RULE_TABLE, name.encode() + b"\0")
                of += attribute(nftables.NFTA_RULE_CHAIN, chain.encode() + b"\0")
                yield from (nfgenmsg(NUMBERS[family]) + of for _ in rules)

    def told_addresses(self) -> Iterator[bytes]:
        for address, protocol in self.addresses:
            family = NUMBERS[Family.V4 if address.version == 4 else Family.V6]
            head = struct.pack("=BBBBI", family, address.network.prefixlen, 0, UNIVERSE, LO)
            local = attribute(rtnetlink.IFA_LOCAL, address.ip.packed)
            yield head + local + attribute(rtnetlink.IFA_PROTO, bytes([protocol]))

    def told_routes(self) -> Iterator[bytes]:
        for family, table, protocol in self.routes:
            head = struct.pack("=BBBBBBBBI", NUMBERS[family], 0, 0, 0, 0, protocol, HOST, RTN_LOCAL, 0)
            metric = attribute(rtnetlink.RTA_PRIORITY, number(OUR_METRIC[family]))
            place = attribute(rtnetlink.RTA_TABLE, number(table)) + attribute(rtnetlink.RTA_OIF, number(LO))
            yield head + place + metric

    def told_rules(self) -> Iterator[bytes]:
        for family in Family:
            own = [(0, None, 255, 2), (32766, None, 254, 2), *([(32767, None, 253, 2)] if family is Family.V4 else [])]
            added = [rule[1:] for rule in self.rules if rule[0] is family]
            for priority, mark, table, protocol in sorted([*own, *added], key=lambda rule: rule[0]):
                yield ip_rule(family, priority, mark, table, protocol)

    # --- what is done -------------------------------------------------------------------------------------

    def act(self, what: str) -> None:
        """Raises what `refuse` says, before anything is done."""
        self.acts.append(what)
        refused = self.refuse(what)
        if isinstance(refused, Exception):
            raise refused
        if refused:
            raise OSError(refused, "refused on demand")

    def add_rule(self, family: Family, priority: int, mark: int, table: int) -> None:
        self.act(f"{family.value} rule add {priority} {mark} {table}")
        if (family, priority, mark, table) not in [rule[:4] for rule in self.rules]:
            self.rules.append((family, priority, mark, table, PROTOCOL))

    def remove_rule(self, family: Family, priority: int, mark: int, table: int) -> None:
        self.act(f"{family.value} rule del {priority} {mark} {table}")
        self.rules = [rule for rule in self.rules if rule[:4] != (family, priority, mark, table)]

    def add_route(self, family: Family, table: int) -> None:
        self.act(f"{family.value} route add {table}")
        if (family, table) not in [route[:2] for route in self.routes]:
            self.routes.append((family, table, PROTOCOL))

    def remove_route(self, family: Family, table: int) -> None:
        self.act(f"{family.value} route del {table}")
        self.routes = [route for route in self.routes if route != (family, table, PROTOCOL)]

    def add_passthrough_address(self) -> None:
        self.act("address add ::6")
        passthrough = ip_interface(str(PASSTHROUGH[Family.V6]))
        if passthrough not in [address for address, _ in self.addresses]:
            self.addresses.append((passthrough, PROTOCOL))

    def remove_passthrough_address(self) -> None:
        self.act("address del ::6")
        passthrough = ip_interface(str(PASSTHROUGH[Family.V6]))
        self.addresses = [kept for kept in self.addresses if kept[0] != passthrough]

    def lo_is_up(self) -> bool | None:
        return self.has_lo_up

    def exchange(self, path: str, value: str) -> str:
        self.act(f"{path} = {value}")
        before, self.sysctls[path] = self.sysctls[path], value
        return before

    def enter(self, namespace: str) -> None:
        """Whatever is asked from now on is asked of that one."""
        if namespace not in self.others:
            raise NamespaceUnusable(f"cannot enter the network namespace {namespace}: it is not in memory")
        entered = self.others[namespace]
        entered.others = self.others  # a name is the same everywhere
        seam._standing_in[-1] = entered

    def be_apart(self) -> None:
        """Whatever is asked from now on is asked of one in which there is nothing yet, on the same host."""
        self.act("be apart")
        apart = Memory("127.0.0.1/8", "::1/128")
        apart.refuse, apart.installed, apart.silent = self.refuse, self.installed, self.silent
        seam._standing_in[-1] = apart

    def let_packets_pass(self) -> None:
        self.act("let packets pass")

    def acknowledged(self, protocol: int, requests: Sequence[tuple[int, int, bytes]]) -> list[OSError | None]:
        self.act(f"{len(requests)} requests to netlink protocol {protocol}")
        return [None] * len(requests)

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:  # noqa: ARG002 # nobody is waited for
        self.act("lock")
        try:
            yield
        finally:
            self.acts.append("unlock")

    @staticmethod
    def flocked(*_: object, **__: object) -> AbstractContextManager[None]:
        """Nobody else is here."""
        return nullcontext()

    def sent(self, requests: Sequence[bytes], flags: int = tidying.NONREC) -> int:  # noqa: ARG002 # it is only asked to delete
        """Requests to delete empty chains and tables, as one transaction."""
        before = deepcopy(self.tables)
        for request in requests:
            refused = self.deleted(request)
            if refused:
                self.tables = before
                return refused
        return 0

    def deleted(self, request: bytes) -> int:
        kind, family = struct.unpack_from("=HB", request)
        names = [text.rstrip(b"\0").decode() for _, text in sorted(messages.attributes(request[6:]).items())]
        of = next(which for which, its in NUMBERS.items() if its == family)
        self.act(f"{of.value} nft delete {' '.join(names)}")
        place = (NFT, of, names[0])
        table = self.tables.get(place)
        if table is None:
            return errno.ENOENT
        if kind & 0xFF == tidying.NFT_MSG_DELTABLE:
            if table.chains or table.made:
                return errno.EBUSY
            del self.tables[place]
        elif names[1] not in table.made and names[1] not in table.chains:
            return errno.ENOENT
        elif table.uses(names[1]):
            return errno.EBUSY
        else:
            table.made.discard(names[1])
            table.chains.pop(names[1], None)
            table.policies.pop(names[1], None)
            table.forget(names[1])
        return 0

    def run(
        self,
        program: str,
        *arguments: str,
        text: str = "",
        lines: Iterable[str] = (),
        environ: Mapping[str, str] | None = None,  # noqa: ARG002 # it has no lock file
    ) -> Completed:
        name = program.rpartition("/")[2]
        answered = self.answers(name)
        if answered:
            return answered
        command, backend, verb = name.split("-")
        family = next(family for family, its in PROGRAM.items() if its == command)
        if verb == "save":
            return Completed(0, self.saved(backend, family, counters="-c" in arguments), "")
        text += "".join(f"{line}\n" for line in lines)
        told = ""
        for table in text.split("COMMIT\n")[:-1]:
            title = table.partition("\n")[0].removeprefix("*")
            wanted = table.split("\n")[1:-1]
            if wanted == ["-S"]:
                told += self.listed(backend, family, title)
                continue
            try:
                self.act(f"{name} {title}")
                self.commit(backend, family, title, wanted)
            except OSError as refused:
                return Completed(4, "", f"{name}: refused on demand: {errno.errorcode[refused.errno or 0]}\n")
            except Refused as refused:
                return Completed(1, "", f"{name}: {refused}\n")
        return Completed(0, told, "")

    def load(self, backend: str, family: Family, text: str) -> None:
        """Rules of others, given as iptables-save prints them."""
        done = self.run(f"/sbin/{PROGRAM[family]}-{backend}-restore", text=text)
        assert not done.status, done.stderr
        self.acts.clear()

    def commit(self, backend: str, family: Family, name: str, lines: Sequence[str]) -> None:
        """One table's lines, all or nothing. Raises Refused."""
        place = (backend, family, name)
        if backend == LEGACY:
            # It is there with all its built-in chains from the moment that somebody asks for it.
            self.tables.setdefault(place, Table(made=set(BUILT_IN[name])))
        table = deepcopy(self.tables.get(place, Table()))
        for line in lines:
            changed(table, name, line)
        self.tables[place] = table

    def saved(self, backend: str, family: Family, *, counters: bool = False) -> str:
        """What iptables-save prints."""
        parts = []
        for name in TABLES:
            table = self.tables.get((backend, family, name))
            if table is None:
                continue
            built_in = [chain for chain in ORDER if chain in BUILT_IN[name]]
            own = [chain for chain in table.chains if chain not in built_in]
            lines = [f"*{name}", *(f":{chain} {table.policies.get(chain, 'ACCEPT')} [0:0]" for chain in built_in)]
            lines += [f":{chain} - [0:0]" for chain in own]
            counted = "[0:0] " if counters else ""
            lines += [
                f"{counted}-A {chain} {rule}".rstrip()
                for chain in (*built_in, *own)
                for rule in table.chains.get(chain, ())
            ]
            parts.append("\n".join(["# Generated by a kernel in memory", *lines, "COMMIT", "# Completed\n"]))
        return "".join(parts)

    def listed(self, backend: str, family: Family, name: str) -> str:
        """What `-S` prints of a table."""
        table = next(part for part in self.saved(backend, family).split("COMMIT\n") if f"\n*{name}\n" in part)
        lines = table.partition(f"\n*{name}\n")[2].replace(" [0:0]\n", "\n")
        chains = re.sub(r"^:(\S+) -$", r"-N \1", lines, flags=re.MULTILINE)
        return re.sub(r"^:", "-P ", chains, flags=re.MULTILINE)


def changed(table: Table, name: str, line: str) -> None:
    """Do what one line of restore input says. Raises Refused."""
    if line.startswith(":"):
        chain, policy = line[1:].split(" ")[:2]
        if chain in BUILT_IN[name]:
            table.made.add(chain)
            table.make(chain)
            if policy != "-":
                table.policies[chain] = policy
        else:
            table.chains[chain] = []
            table.make(chain)
        return
    option, _, rest = line.partition(" ")
    chain, _, rule = rest.partition(" ")
    if chain in BUILT_IN[name]:
        table.made.add(chain)
        table.make(chain)
        table.chains.setdefault(chain, [])
    elif option == "-N":
        if chain in table.chains:
            raise Refused(f"Chain '{chain}' already exists")
        table.chains[chain] = []
        table.make(chain)
        return
    rules = table.chains.get(chain)
    if rules is None:
        raise Refused(f"Chain '{chain}' does not exist")
    match option:
        case "-A":
            rules.append(fitting(table, rule))
        case "-I":
            position, _, rule = rule.partition(" ")
            rules.insert(int(position) - 1, fitting(table, rule))
        case "-D" if rule.isdigit():
            del rules[int(rule) - 1]
        case "-D":
            spelled = fitting(table, rule)
            if spelled not in rules:
                raise Refused("Bad rule (does a matching rule exist in that chain?).")
            rules.remove(spelled)
        case "-F":
            rules.clear()
        case "-X" if rules or table.uses(chain):
            raise Refused(f"CHAIN_DEL failed (Device or resource busy): chain {chain}")
        case "-X":
            del table.chains[chain]
            table.forget(chain)
        case _:
            raise AssertionError(f"a run of ours gives no {line!r}")


def fitting(table: Table, rule: str) -> str:
    """The rule as it is printed back. Raises Refused if it leads to a chain that is not there."""
    declared = dict.fromkeys(table.chains)
    words = tokens(rule)
    target = led_to(rule, "-j") or led_to(rule, "-g")
    if target.isupper() and target.startswith("ISTIO") and target not in declared:
        raise Refused(f"Couldn't load target `{target}':No such file or directory")
    return rule_text(reading.rule(words, declared))


def nfgenmsg(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def attribute(kind: int, value: bytes) -> bytes:
    return messages.ATTRIBUTE.pack(messages.ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def base_chain(table: str, chain: str, policy: str) -> bytes:
    """What a built-in chain has besides its name, as iptables-nft makes it."""
    kind, hook, priority = nftables.built_in(table, chain)
    at = attribute(nftables.NFTA_HOOK_HOOKNUM, struct.pack(">I", hook))
    at += attribute(nftables.NFTA_HOOK_PRIORITY, struct.pack(">i", priority))
    answer = attribute(nftables.NFTA_CHAIN_POLICY, struct.pack(">I", policy == "ACCEPT"))
    return attribute(nftables.NFTA_CHAIN_TYPE, kind.encode() + b"\0") + attribute(nftables.NFTA_CHAIN_HOOK, at) + answer


def ip_rule(family: Family, priority: int, mark: int | None, table: int, protocol: int) -> bytes:
    head = struct.pack("=BBBBBBBBI", NUMBERS[family], 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
    asked = attribute(rtnetlink.FRA_PRIORITY, number(priority)) + attribute(rtnetlink.FRA_TABLE, number(table))
    if mark is not None:
        asked += attribute(rtnetlink.FRA_FWMARK, number(mark)) + attribute(rtnetlink.FRA_FWMASK, number(0xFFFFFFFF))
    return head + asked + attribute(rtnetlink.FRA_PROTOCOL, bytes([protocol]))


def everything(memory: Memory) -> tuple[object, ...]:
    """All that it holds, to compare: what was there is there again."""
    tables = {
        place: (
            {chain: list(rules) for chain, rules in table.chains.items() if rules or chain not in BUILT_IN[place[2]]}
        )
        for place, table in memory.tables.items()
        # The kernel cannot take a legacy table back that was only asked for.
        if place[0] != LEGACY or any(rules or chain not in BUILT_IN[place[2]] for chain, rules in table.chains.items())
    }
    return tables, sorted(memory.rules, key=str), sorted(memory.routes, key=str), sorted(map(str, memory.addresses))
