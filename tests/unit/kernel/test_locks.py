"""Who goes on where several runs come at once, and what those who wait for it say."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from capture.errors import LiveStateUnreadable, LockHeld
from capture.kernel import locks

if TYPE_CHECKING:
    from pathlib import Path

OWN, LOWER, HIGHER = 5, 3, 8
JOIN, LEAVE = locks.NETLINK_ADD_MEMBERSHIP, locks.NETLINK_DROP_MEMBERSHIP


class Member:
    """A socket of the group: what it does is written down."""

    def __init__(self) -> None:
        self.acts: list[int] = []

    def getsockname(self) -> tuple[int, int]:
        return OWN, 0

    def setsockopt(self, _level: int, act: int, group: int) -> None:
        assert group == locks.GROUP
        self.acts.append(act)


def waited(monkeypatch: pytest.MonkeyPatch, *there: set[int], patience: float = 60, longest: float = 60) -> Any:
    """What a run does and says while these are the members, one set after the other: it looks at each."""
    left = deque(there)
    member, said = Member(), list[str]()
    monkeypatch.setattr(locks, "members", lambda: {number: f"inode {number}" for number in left.popleft()})
    monkeypatch.setattr(locks, "holders_of_sockets", lambda inodes: [None for _ in inodes])
    monkeypatch.setattr(locks, "PATIENCE", patience)
    monkeypatch.setattr(locks, "LONGEST_WAIT", longest)
    locks.until_alone(member, said.append)  # type: ignore[arg-type] # it is asked for its number and its membership
    assert not left
    return member.acts, said


@pytest.mark.parametrize(
    ("there", "acts"),
    [
        ([{OWN}], []),
        ([{OWN, HIGHER}, {OWN, HIGHER}, {OWN}], []),
        ([{OWN, LOWER}, {LOWER}, {LOWER}, set(), {OWN}], [LEAVE, JOIN]),
        ([{OWN, LOWER, HIGHER}, {LOWER}, {HIGHER}, set(), {OWN}], [LEAVE, JOIN]),
        ([{OWN, LOWER}, set(), {OWN, LOWER}, {LOWER}, set(), {OWN}], [LEAVE, JOIN, LEAVE, JOIN]),
        ([{OWN, LOWER}, set(), {OWN, HIGHER}, {OWN}], [LEAVE, JOIN]),
    ],
    ids=["alone", "before another", "behind another", "between two", "overtaken again", "before a later one"],
)
def test_of_those_that_come_at_once_the_lowest_stays(
    monkeypatch: pytest.MonkeyPatch, there: list[set[int]], acts: list[int]
) -> None:
    """The others leave until nobody is there, join again, and go on as soon as they are alone."""
    assert waited(monkeypatch, *there) == (acts, [])


def test_who_waits_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment's patience, and for whom."""
    _, said = waited(monkeypatch, *[{OWN, HIGHER}] * 4, {OWN}, patience=-1)
    assert len(said) == 1
    assert said[0].startswith("waiting for another run in this namespace: ")
    assert waited(monkeypatch, *[{OWN, HIGHER}] * 4, {OWN}) == ([], [])


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does not end is an error that names it, and nothing was touched."""
    with pytest.raises(LockHeld, match="nothing was touched"):
        waited(monkeypatch, {OWN, HIGHER}, longest=-1)


def test_members_are_those_of_our_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc/net/netlink lists them, with the bit of the group; other groups and protocols are others' affair."""
    table = tmp_path / "netlink"
    monkeypatch.setattr(locks, "MEMBERS", str(table))
    bit = 1 << locks.GROUP - 1
    rows = [
        ("sk", "Eth", "Pid", "Groups", "Rmem", "Wmem", "Dump", "Locks", "Drops", "Inode"),
        *(
            ("0", protocol, number, f"{groups:08x}", "0", "0", "0", "2", "0", inode)
            for protocol, number, groups, inode in (
                ("12", "41", bit, "1001"),
                ("12", "42", bit | 1, "1002"),
                ("12", "43", bit >> 1, "1003"),
                ("0", "44", bit, "1004"),
                ("12", "45", 0, "1005"),
            )
        ),
    ]
    table.write_text("".join(" ".join(row) + "\n" for row in rows))
    assert locks.members() == {41: "1001", 42: "1002"}
    table.unlink()
    with pytest.raises(LiveStateUnreadable):
        locks.members()
