"""What a removal says is gone from nf_tables besides our own rules."""

from __future__ import annotations

from capture.apply.clean import Thing, taken_away
from capture.host.live import Live
from capture.netlink.nftables import NftChain
from rules.netfilter.values import Family

V4, V6 = Family.V4, Family.V6


def live(tables: dict[Family, set[str]], chains: dict[tuple[Family, str], set[str]]) -> Live:
    held = {family: frozenset(tables.get(family, ())) for family in Family}
    known = {place: {name: NftChain(0, 1) for name in sorted(names)} for place, names in chains.items()}
    return Live({}, {}, held, None, nft_chains=known)


def test_what_is_gone_is_named_by_family_and_table_and_what_is_left_is_not() -> None:
    """A table that went; of one that is still there the built-in chains that went, not those of ours or of others."""
    before = live(
        {V4: {"nat", "raw", "theirs"}, V6: {"nat"}},
        {
            (V4, "nat"): {"PREROUTING", "OUTPUT", "INPUT", "ISTIO_OUTPUT"},
            (V4, "theirs"): {"OUTPUT"},
            (V6, "nat"): {"OUTPUT"},
        },
    )
    after = live({V4: {"nat", "theirs"}, V6: {"nat"}}, {(V4, "nat"): {"OUTPUT"}, (V6, "nat"): {"OUTPUT"}})
    assert list(taken_away(before, after)) == [
        Thing("nf_tables IPv4", "the table raw, in which nothing else was"),
        Thing("nf_tables IPv4 nat", "the built-in chains INPUT, PREROUTING, made for our rules"),
    ]


def test_nothing_gone_is_nothing_said() -> None:
    here = live({V4: {"nat"}, V6: {"nat", "mangle"}}, {(V4, "nat"): {"OUTPUT"}})
    assert list(taken_away(here, here)) == []
    assert list(taken_away(live({}, {}), here)) == []
