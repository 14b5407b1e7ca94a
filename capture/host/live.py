"""What a namespace holds before we touch it, in both backends, and which of them we use."""

from __future__ import annotations

import os

from capture.errors import BackendUnusable, LiveStateUnreadable
from capture.host import place
from capture.host.choice import HELD, ONLY_NFT, Choice, asked_for
from capture.iptables.iptables import BACKENDS, LEGACY, NATIVE, NFT, OF_IPTABLES, OUR_TABLES, Iptables
from capture.iptables.saved import Saved
from capture.kernel.process import LEGACY_TABLES, read_words
from capture.netlink import messages, nftables, rtnetlink
from rules.live.changes import Company
from rules.netfilter.rulesets import Ruleset
from rules.netfilter.values import NAT, Family
from rules.ours.meshes import beside_ambient, is_of_ambient
from rules.ours.recognition import holds_ours
from rules.plan.names import NATIVE_TABLE, PASSTHROUGH
from rules.plan.plan import NOTHING
from rules.routing.policy import LOCAL
from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.netlink.nftables import NftChain
    from capture.netlink.rtnetlink import Address
    from capture.settings.declared import Settings
    from rules.netfilter.hooks import BaseChain, NativeTable
    from rules.plan.plan import Plan
    from rules.routing.policy import PolicyRule, Route

PROC_NET = os.path.dirname(LEGACY_TABLES[Family.V4])
ALIKE = "both backends of iptables have these rules, and nobody asks for others"
NO_NF_TABLES = "nf_tables does not tell what it holds"
TRY_AGAIN = "the host may be short of memory or of open files: run it again"


class Live(Value):
    """What the namespace holds, in both backends and families. Only what could hold anything was read."""

    nft: dict[Family, Saved]
    legacy: dict[Family, Saved]
    nft_tables: dict[Family, frozenset[str]]
    """Which tables of nf_tables are in the families that iptables has, ours or not."""
    nft_error: OSError | None
    """Why nf_tables is not asked here: the kernel has none, or we may not (a PermissionError)."""
    policy_rules: tuple[PolicyRule, ...] = ()
    routes: tuple[Route, ...] = ()
    """Those of every table but the kernel's own."""
    passthrough: Address | None = None
    """`::6`, if it is on an interface."""
    nft_chains: dict[tuple[Family, str], dict[str, NftChain]] = {}  # noqa: RUF012 # a default that nobody changes
    """The chains of those tables."""
    other_nft_tables: frozenset[str] = frozenset()
    """The tables of nf_tables in its other families."""
    has_sockets: bool = False
    """Whether anybody has a TCP or UDP socket here."""
    legacy_is_known: bool = True
    """Whether we may see which legacy tables there are: only uid 0 may."""
    natives: dict[Family, tuple[NativeTable, ...]] = {}  # noqa: RUF012 # a default that nobody changes
    """What packets of each family can meet in nf_tables and iptables does not show."""
    leaving: dict[Family, tuple[NativeTable, ...]] = {}  # noqa: RUF012 # a default that nobody changes
    """Those of them that are taken over: what they capture is known to conntrack."""
    addresses: tuple[Address, ...] = ()
    """Those of the namespace."""
    own: dict[Family, Saved] = {}  # noqa: RUF012 # a default that nobody changes
    """Our own tables of nf_tables, in which iptables has no part."""
    owned: dict[str, int] = {}  # noqa: RUF012 # a default that nobody changes
    """The tables of nf_tables that one program alone may change, as nft names them, and its netlink port."""
    unsound: frozenset[Family] = frozenset()
    """Where such a table is not one that we make, and has to be made anew."""

    def saved(self, tool: Iptables) -> Saved:
        held = self.nft if tool.backend == NFT else self.legacy if tool.backend == LEGACY else self.own
        return held.get(tool.family, Saved(Ruleset(tool.family), ""))

    def beside(self, planned: Plan) -> Plan:
        """The same plan, and what is live and is to be left as it is: see `rules.ours.exemptions`."""
        rulesets = [saved.ruleset for held in (self.nft, self.legacy, self.own) for saved in held.values()]
        if not rulesets:
            return planned
        from rules.ours.exemptions import beside_live

        return beside_live(planned, rulesets)

    def chains(self) -> Iterator[str]:
        """The names of all user-defined chains, ours or not, and of those that iptables does not show."""
        for saved in (*self.nft.values(), *self.legacy.values()):
            for table in saved.ruleset.tables:
                yield from table.declared
        for tables in self.natives.values():
            for native in tables:
                yield from (name for name, _ in native.chains)

    def table_names(self) -> Iterator[str]:
        """The names of all tables of nf_tables."""
        for names in self.nft_tables.values():
            yield from names
        yield from self.other_nft_tables

    @property
    def local_routes(self) -> tuple[Route, ...]:
        """The routes that deliver here whatever is looked up in their table."""
        return tuple(route for route in self.routes if route.is_default and route.kind == LOCAL)

    @property
    def misnamed(self) -> tuple[BaseChain, ...]:
        """The base chains of nf_tables that have the name of one of iptables, and are none."""
        if not self.natives:
            return ()
        from rules.netfilter.hooks import MISNAMED  # where a pod starts there are no chains

        found = (chain for natives in self.natives.values() for native in natives for chain in native.base_chains)
        return tuple(chain for chain in found if chain.name.endswith(MISNAMED))

    def company(self, *, ours_first: bool = False) -> Company:
        """Whom our rules share this namespace with."""
        usable = [address for address in self.addresses if address.is_usable]
        names = dict.fromkeys(filter(None, (rtnetlink.name_of(address.interface) for address in usable)))
        return Company(ours_first=ours_first, interfaces=tuple(names), addresses=tuple(it.ip for it in usable))

    def holds_ours(self, backend: str) -> bool:
        return any(
            holds_ours(table) for family in Family for table in self.saved(Iptables(backend, family)).ruleset.tables
        )

    def taken_by_others(self, backend: str, planned: Plan) -> Iterator[Family]:
        """In which families rules of others there would take what is planned, were they asked first."""
        for ruleset in planned.rulesets:
            theirs = self.saved(Iptables(backend, ruleset.family)).ruleset
            if ruleset.tables and any(block.rules for table in theirs.tables for block in table.blocks):
                from rules.proof.across import others_take  # where a pod starts, nobody has rules

                if others_take(theirs, ruleset, self.company()):
                    yield ruleset.family

    def owned_in_the_way(self, backend: str, planned: Plan) -> tuple[str, int] | None:
        """A table that one program alone may change, in which the backend would write what is planned.

        Where nothing is planned, it would write in nat.
        """
        if not self.owned or backend == LEGACY:
            return None
        from rules.netfilter.hooks import NAME  # where a pod starts there are no tables

        wanted = [(ruleset.family, table.table) for ruleset in planned.rulesets for table in ruleset.tables]
        names = (
            f"{NAME[family]} {NATIVE_TABLE if backend == NATIVE else table}"
            for family, table in wanted or [(family, NAT) for family in Family]
        )
        return next(((name, self.owned[name]) for name in names if name in self.owned), None)

    def holds_rules(self, backend: str) -> bool:
        return any(
            block.rules
            for family in Family
            for table in self.saved(Iptables(backend, family)).ruleset.tables
            for block in table.blocks
        )


NOTHING_LIVE = Live({}, {}, {family: frozenset() for family in Family}, None)
"""A namespace in which nothing is."""


def names_at_sight() -> tuple[list[str], list[str]]:
    """The names of chains and tables of nf_tables, as far as the kernel tells; without reading a rule."""
    try:
        tables, others = nftables.nft_tables()
        chains = nftables.nft_chains() if any(tables.values()) else {}
    except OSError:
        return [], []  # whoever reads the rules says what is the matter
    return [name for found in chains.values() for name in found], [
        *others,
        *(name for t in tables.values() for name in t),
    ]


def read_live(*, counters: bool = False) -> Live:
    """Ask the kernel which tables there are, and read those that could hold something of ours; and the routing.

    With `counters`, the saved texts have packet counters (`rules.iptables.counters` reads them).
    In a new namespace this runs no child process. Raises LiveStateUnreadable, or BackendUnusable where there are
    tables but no program to read them with.
    """
    live = of_nf_tables(counters=counters)
    nft = live.nft
    legacy, legacy_is_known = of_legacy(counters=counters)
    if any(is_of_ambient(saved.ruleset) for saved in (*nft.values(), *legacy.values())):
        nft, legacy = map(all_beside_ambient, (nft, legacy))
    if any(holds_ours(table) for saved in (*nft.values(), *legacy.values()) for table in saved.ruleset.tables):
        nft, legacy = with_all_held(nft, live.nft_chains), with_all_held(legacy, {})
    try:
        rules, routes = rtnetlink.policy_rules(), rtnetlink.routes()
        # Asked again, although `capture.host.facts` did: that was before other runs were kept out.
        addresses = rtnetlink.addresses()
    except OSError as refused:
        raise unreadable("the kernel does not tell rules, routes and addresses", refused) from refused
    return live.but(
        nft=nft,
        legacy=legacy,
        legacy_is_known=legacy_is_known,
        policy_rules=rules,
        routes=routes,
        addresses=addresses,
        passthrough=next((address for address in addresses if address.ip in PASSTHROUGH[Family.V6]), None),
        has_sockets=place.has_sockets(),
    )


def of_nf_tables(*, counters: bool) -> Live:
    """What nf_tables holds, and nothing else."""
    chains: dict[tuple[Family, str], dict[str, NftChain]] = {}
    try:
        tables, others = nftables.nft_tables()
        if any(names & OUR_TABLES for names in tables.values()):
            chains = nftables.nft_chains()
    except OSError as refused:
        if isinstance(refused, PermissionError) or messages.is_absence(refused):
            return Live({}, {}, {family: frozenset() for family in Family}, refused)
        raise unreadable(NO_NF_TABLES, refused) from refused
    nft = {family: Iptables(NFT, family).save(counters=counters) for family in Family if tables[family] & OUR_TABLES}
    live = Live(nft, {}, tables, None, nft_chains=chains, other_nft_tables=others)
    if not others and not any(tables.values()):
        return live
    from capture.host.native import read_natives  # where a pod starts there are none

    try:
        owned = nftables.owned()
        found = read_natives(nft, tables, others, chains)
    except OSError as refused:
        raise unreadable(NO_NF_TABLES, refused) from refused
    return live.but(nft=found.of_iptables, natives=found.others, own=found.own, owned=owned, unsound=found.unsound)


def of_legacy(*, counters: bool) -> tuple[dict[Family, Saved], bool]:
    """What the legacy tables hold, and whether we may see which there are."""
    try:
        tables = {family: read_words(LEGACY_TABLES[family]) for family in Family}
    except OSError as refused:
        raise unreadable("which legacy tables there are cannot be read", refused) from refused
    if None in tables.values() and not os.path.isdir(PROC_NET):
        raise LiveStateUnreadable(
            f"which legacy tables there are cannot be read: there is no {PROC_NET}; nothing was changed",
            hint="mount /proc",
        )
    saved = {
        family: Iptables(LEGACY, family).save(counters=counters)
        for family, names in tables.items()
        if OUR_TABLES.intersection(names or ())
    }
    return saved, None not in tables.values()


def unreadable(what: str, refused: OSError) -> LiveStateUnreadable:
    return LiveStateUnreadable(f"{what}: {refused.strerror}; nothing was changed", hint=TRY_AGAIN)


def all_beside_ambient(by_family: dict[Family, Saved]) -> dict[Family, Saved]:
    return {family: saved.but(ruleset=beside_ambient(saved.ruleset)) for family, saved in by_family.items()}


def with_all_held(
    by_family: dict[Family, Saved], chains: dict[tuple[Family, str], dict[str, NftChain]]
) -> dict[Family, Saved]:
    """The same, in which our chains that others hold are known: see `rules.ours.held`."""
    from rules.ours.held import with_held

    uses: dict[Family, dict[str, dict[str, int]]] = {family: {} for family in by_family}
    for (family, table), those in chains.items():
        uses.setdefault(family, {})[table] = {name: chain.use for name, chain in those.items()}
    return {family: saved.but(ruleset=with_held(saved.ruleset, uses[family])) for family, saved in by_family.items()}


def choose_backend(live: Live, settings: Settings, planned: Plan = NOTHING) -> Choice:
    """The backend for what is planned in this namespace. Decides from what was read; probes nothing.

    Raises BackendUnusable if neither can be used, or not the one that was asked for.
    """
    asked = asked_for(settings)
    if asked:
        require(live, asked.backend, asked.reason)
        return asked
    if isinstance(live.nft_error, PermissionError):
        from capture.kernel.rights import not_permitted

        raise not_permitted()
    choice = preferred(live, planned)
    if choice.backend == NATIVE:
        return choice
    other = LEGACY if choice.backend == NFT else NFT
    taken = any(live.taken_by_others(other, planned)) and not any(live.taken_by_others(choice.backend, planned))
    if taken and is_usable(live, other):
        comes_from = choice.backend if live.holds_ours(choice.backend) else ""
        why = "rules of others there take what is to be captured, and in one table the place of a rule decides"
        return Choice(other, why, comes_from)
    return choice


def chosen(live: Live, settings: Settings, planned: Plan = NOTHING) -> Choice:
    """The same, for those who only tell of it: where none can be used, why."""
    try:
        return choose_backend(live, settings, planned)
    except BackendUnusable as refused:
        return Choice("", refused.what)


def choice_of(settings: Settings) -> Choice:
    """The backend whose rules these settings mean, where no live rules are looked at: what is installed decides."""
    only = Choice(NATIVE, ONLY_NFT) if has_only_nft(NOTHING_LIVE) else Choice(NFT, ALIKE)
    return asked_for(settings) or only


def preferred(live: Live, planned: Plan = NOTHING) -> Choice:
    """The backend, if rules of others in the other one are in nobody's way."""
    for backend in BACKENDS:
        if live.holds_ours(backend):
            is_only = backend == NATIVE and has_only_nft(live)
            return Choice(backend, f"{HELD}; {ONLY_NFT}" if is_only else HELD)
    if live.holds_rules(LEGACY) and not live.holds_rules(NFT) and Iptables(LEGACY, Family.V4).is_installed:
        return Choice(LEGACY, "the namespace holds the rules of others there, and none in nft")
    why = why_not_iptables_nft(live, planned)
    for backend in (LEGACY, NATIVE):
        if why and is_usable(live, backend):
            return Choice(backend, why)
    if live.nft_error is None and Iptables(NFT, Family.V4).is_installed:
        return Choice(NFT, "the kernel has nf_tables")
    if has_only_nft(live):
        return Choice(NATIVE, ONLY_NFT)
    why = "iptables-nft is not installed"
    if live.nft_error:
        why = f"the kernel has no nf_tables ({live.nft_error.strerror})"
    require(live, LEGACY, why)
    return Choice(LEGACY, why)


def why_not_iptables_nft(live: Live, planned: Plan) -> str:
    """What of others keeps iptables-nft from writing what is planned; empty if nothing does."""
    taken = next((chain for chain in live.misnamed if chain.table == NAT), None)
    if taken:
        return f"the chain {taken} of others keeps iptables-nft from having its own there"
    owned = live.owned_in_the_way(NFT, planned)
    return nftables.belongs(*owned) if owned else ""


def has_only_nft(live: Live) -> bool:
    """Whether there is no iptables here that can be used, and nft."""
    is_legacy = live.legacy_is_known and Iptables(LEGACY, Family.V4).is_installed
    is_iptables = is_legacy or Iptables(NFT, Family.V4).is_installed
    return live.nft_error is None and not is_iptables and Iptables(NATIVE, Family.V4).is_installed


def is_usable(live: Live, backend: str) -> bool:
    """Whether rules can be put there."""
    try:
        require(live, backend, "")
    except BackendUnusable:
        return False
    return True


def require(live: Live, backend: str, reason: str) -> None:
    from capture.kernel.rights import legacy_unseen_hint, not_permitted

    if isinstance(live.nft_error, PermissionError):
        raise not_permitted()
    if backend == NATIVE:
        if live.nft_error:
            raise BackendUnusable(
                f"the kernel has no nf_tables ({live.nft_error.strerror}), and {reason}",
                hint="leave out --native-nftables, or load the module nf_tables",
            )
        if not Iptables(NATIVE, Family.V4).is_installed:
            raise BackendUnusable(f"nft is not installed, and {reason}", hint="install nftables 1.0.6 or later")
        return
    if not any(Iptables(each, Family.V4).is_installed for each in OF_IPTABLES):
        programs = [f"{Iptables(each, Family.V4)}-restore" for each in OF_IPTABLES]
        raise BackendUnusable(
            f"no iptables is installed: neither {' nor '.join(programs)} is on the PATH",
            hint="install nftables, or iptables 1.8.7 or later; the kernel is not to blame",
        )
    if not Iptables(backend, Family.V4).is_installed:
        raise BackendUnusable(
            f"the {backend} backend of iptables is not installed, and {reason}",
            hint=f"install iptables 1.8.7 or later with iptables-{backend}-restore and iptables-{backend}-save",
        )
    if backend == LEGACY and not live.legacy_is_known:
        raise BackendUnusable(
            f"only uid 0 may read {LEGACY_TABLES[Family.V4]}, without which the legacy tables cannot be saved",
            hint=legacy_unseen_hint(),
        )
    if backend == NFT and live.nft_error:
        raise BackendUnusable(
            f"the kernel has no nf_tables ({live.nft_error.strerror}), and {reason}",
            hint=f"try `modprobe nf_tables` on the node{Iptables(NFT, Family.V4).or_the_other}",
        )
