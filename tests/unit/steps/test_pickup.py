"""Which sockets there are, on a kernel in memory."""

from __future__ import annotations

import pytest

from capture.kernel.seam import standing_in
from capture.steps.pickup import all_sockets
from rules.connections.flow import CLOSED_HERE, CLOSING, ESTABLISHED
from tests.rig.memory import Memory


@pytest.mark.parametrize(("inode", "left"), [(0, CLOSED_HERE), (7, frozenset())], ids=["nobody's", "somebody's"])
def test_a_socket_that_its_process_has_closed_is_left(inode: int, left: frozenset[int]) -> None:
    """The kernel keeps it until the peer has heard of that; who has shut down one half alone still has it."""
    with standing_in(Memory("127.0.0.1/8")) as kernel:
        assert isinstance(kernel, Memory)
        kernel.sockets = [(state, 80, 40000) for state in range(ESTABLISHED, CLOSING + 1)]
        kernel.inode = inode
        found = all_sockets()
    assert {socket.state for socket in found} >= {ESTABLISHED, *CLOSED_HERE}
    assert {socket.state for socket in found if socket.is_left} == left
