"""Where the numbers that settings take begin and end, and the notations they come in."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capture.intent import nameservers
from capture.settings import parsers

if TYPE_CHECKING:
    from collections.abc import Callable

U32 = 2**32
LIMITS = [
    (parsers.port, 1, 65535),
    (parsers.nflog_group, 1, 65535),
    (parsers.rate, 1, 100),
    (parsers.mark, 1, U32 - 1),
    (parsers.routing_table, 1, U32 - 1),
    (parsers.owner, 0, U32 - 2),
    (parsers.uid_range, 0, U32 - 2),
    (parsers.port_range, 1, 65535),
]


def refuses(read: Callable[[str], Any], text: str) -> str:
    with pytest.raises(ValueError, match=r".") as refused:
        read(text)
    return str(refused.value)


@pytest.mark.parametrize(("read", "lowest", "highest"), LIMITS, ids=lambda it: getattr(it, "__name__", str(it)))
def test_a_number_is_taken_up_to_its_limits_and_not_beyond(
    read: Callable[[str], Any], lowest: int, highest: int
) -> None:
    """The first and the last that the kernel takes are taken; the next ones are refused with both limits."""
    read(str(lowest))
    read(str(highest))
    assert str(highest) in refuses(read, str(highest + 1))
    if lowest:
        assert str(highest) in refuses(read, str(lowest - 1))


@pytest.mark.parametrize("between", "-:")
@pytest.mark.parametrize(
    ("read", "highest"), [(parsers.port_range, 65535), (parsers.uid_range, U32 - 2)], ids=["ports", "uids"]
)
def test_both_ends_of_a_range_have_the_limits_of_one(read: Callable[[str], Any], highest: int, between: str) -> None:
    """However the range runs: what a refusal offers instead must be right."""
    assert (read(f"1{between}{highest}").first, read(f"1{between}{highest}").last) == (1, highest)
    ends = (1, 2, highest, highest + 1)
    for first in ends:
        for last in ends:
            if first > last or highest + 1 in (first, last):
                said = refuses(read, f"{first}{between}{last}")
                offered = re.search(r"give (\d+-\d+)$", said)
                assert offered is None or read(offered[1])


def test_tables_of_the_kernel_are_no_tables_for_us() -> None:
    """Of the three that it fills itself; their neighbours are."""
    for number, name in ((253, "default"), (254, "main"), (255, "local")):
        assert f"`{name}`" in refuses(parsers.routing_table, str(number))
    assert [parsers.routing_table(str(number)) for number in (252, 256)] == [252, 256]


@given(st.integers(1, U32 - 1))
@example(1)
@example(7)
@example(8)
def test_a_mark_is_read_in_each_notation_of_go(number: int) -> None:
    """Decimal, 0x, 0o, 0b, and a bare 0 for octal; underscores may stand between digits (strconv.ParseUint, base 0)."""
    for text in (f"{number}", f"{number:#x}", f"{number:#X}", f"{number:#o}", f"{number:#b}", f"0{number:o}"):
        assert parsers.mark(text) == number, text
    assert parsers.mark(f"{number:_}") == parsers.mark(f"{number:#_x}") == parsers.mark(f"0_{number:o}") == number
    for text in (f"_{number}", f"{number}_", f"+{number}", f" {number}", f"{number}.0", "08", "0x", "0_"):
        refuses(parsers.mark, text)


@given(st.lists(st.integers(0, 300) | st.integers(0, 2**25) | st.integers(0, 2**33), min_size=1, max_size=5), st.data())
@example([255, 255, 65535], None)
@example([255, 255, 65536], None)
@example([0, 256, 0, 0], None)
def test_an_address_in_resolv_conf_is_read_as_libc_reads_it(numbers: list[int], data: st.DataObject | None) -> None:
    """Fewer parts than four, octal and hexadecimal ones; and what libc refuses is refused."""
    spell = ("{}", "0{:o}", "{:#x}")
    text = ".".join((data.draw(st.sampled_from(spell)) if data else "{}").format(number) for number in numbers)
    try:
        known = socket.inet_aton(text)
    except OSError:
        refuses(nameservers.inet_aton, text)
    else:
        assert nameservers.inet_aton(text).packed == known


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1ns", 1e-9), ("1us", 1e-6), ("1µs", 1e-6), ("500ms", 0.5), ("1.5s", 1.5), ("1m30s", 90.0), ("2h1m1s", 7261.0)],
)
def test_a_duration_is_the_sum_of_its_parts(text: str, seconds: float) -> None:
    """Each in its unit."""
    assert parsers.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0s", "0", "5", "s", "5 s", "-5s", "1s5", "1d", ".s", "1..5s", "9999999h"])
def test_what_go_reads_as_no_duration_or_none_at_all_is_refused(text: str) -> None:
    """Nor is nothing a time to wait."""
    assert "500ms" in refuses(parsers.duration, text)


def test_a_time_that_the_kernel_counts_in_seconds_has_at_least_one() -> None:
    """Less would be none."""
    assert parsers.whole_seconds("1s") == 1
    assert "less than a second" in refuses(parsers.whole_seconds, "999ms")
