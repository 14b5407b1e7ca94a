"""Our place in a chain of CNI plugins: behind all others, once, and everything else as it was."""

from __future__ import annotations

from typing import Any

import pytest

from rules.cni.chain import TYPE, holds_ours, plugins_of, with_ours, without_ours

BRIDGE, PORTMAP, OURS = {"type": "bridge", "mtu": 1500}, {"type": "portmap"}, {"type": TYPE, "args": ["-u", "1337"]}


@pytest.mark.parametrize("others", [[BRIDGE], [BRIDGE, PORTMAP], [OURS, BRIDGE], [BRIDGE, OURS, PORTMAP]])
def test_ours_stands_last_and_once(others: list[dict[str, Any]]) -> None:
    """Wherever it stood before; taken out, the others are as they were."""
    config = {"cniVersion": "1.0.0", "name": "pods", "plugins": others, "unknown": [1]}
    found = with_ours(config, OURS)
    theirs = [each for each in others if each is not OURS]
    assert found == {**config, "plugins": [*theirs, OURS]}
    assert holds_ours(found)
    assert without_ours(found) == {**config, "plugins": theirs}
    assert not holds_ours(without_ours(found))


def test_a_single_plugin_becomes_a_chain() -> None:
    """What belongs to the chain goes there, and the rest stays the plugin's."""
    single = {"cniVersion": "0.4.0", "name": "pods", **BRIDGE}
    assert plugins_of(single) == [single]
    assert with_ours(single, OURS) == {"cniVersion": "0.4.0", "name": "pods", "plugins": [BRIDGE, OURS]}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "not an object"),
        ({}, "neither a list of plugins nor a type"),
        ({"plugins": "bridge"}, "neither a list of plugins nor a type"),
        ({"plugins": ["bridge"]}, "neither a list of plugins nor a type"),
        ({"plugins": [OURS]}, "no other plugin"),
        ({"plugins": []}, "no other plugin"),
        ({"cniVersion": "9.9.9", "plugins": [BRIDGE]}, "its cniVersion is '9.9.9'"),
    ],
)
def test_where_there_can_be_no_chain_it_is_refused(config: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_ours(config, OURS)
