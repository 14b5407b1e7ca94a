"""What iptables-legacy-restore lists of what it left, read as what iptables-save prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.iptables import reading
from rules.iptables.listing import as_saved, asking
from rules.netfilter.values import BUILT_IN

ORDER = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
RULES = st.sampled_from(
    [
        "-p tcp -j X",
        '-m comment --comment "a b" -j RETURN',
        '-m comment --comment "-P OUTPUT DROP\n-N Z\n-P INPUT ACCEPT" -j RETURN',
        '-m comment --comment "*filter\nCOMMIT" -j ACCEPT',
        "-d 10.0.0.0/8 -g Y",
    ]
)
CHAINS = st.lists(st.sampled_from(["X", "Y", "ISTIO_OUTPUT", "-P", "COMMIT"]), unique=True)
TABLES = st.lists(st.sampled_from(sorted(BUILT_IN)), unique=True, min_size=1)


@st.composite
def saved(draw: st.DrawFn) -> tuple[list[str], str, str]:
    """Some tables, what `-S` prints of them, and what iptables-save does."""
    tables, listing, text = draw(TABLES), "", ""
    for table in tables:
        built_in = [chain for chain in ORDER if chain in BUILT_IN[table]]
        chains = draw(CHAINS)
        rules = [f"-A {chain} {rule}\n" for chain in (*built_in, *chains) for rule in draw(st.lists(RULES, max_size=2))]
        policies = [(chain, draw(st.sampled_from(["ACCEPT", "DROP"]))) for chain in built_in]
        listing += "".join(f"-P {chain} {policy}\n" for chain, policy in policies)
        listing += "".join(f"-N {chain}\n" for chain in chains) + "".join(rules)
        text += f"*{table}\n" + "".join(f":{chain} {policy} [0:0]\n" for chain, policy in policies)
        text += "".join(f":{chain} - [0:0]\n" for chain in chains) + "".join(rules) + "COMMIT\n"
    return tables, listing, text


@given(saved())
def test_listings_say_what_is_saved(it: tuple[list[str], str, str]) -> None:
    tables, listing, text = it
    assert as_saved(listing, tables) == text
    assert [table.table for table in reading.tables(text)] == tables


@given(saved())
def test_a_listing_of_more_or_fewer_tables_is_refused(it: tuple[list[str], str, str]) -> None:
    """One that ends within its last table is told by what is compared with it."""
    tables, listing, _ = it
    for others in ([*tables, tables[-1]], tables[:-1]):
        with pytest.raises(ValueError, match="of the tables"):
            as_saved(listing, others)
    with pytest.raises(ValueError, match="ends before"):
        as_saved(listing[:-1], tables)


def test_nothing_is_changed_by_asking() -> None:
    assert list(asking(["nat", "raw"])) == ["*nat", "-S", "COMMIT", "*raw", "-S", "COMMIT"]
