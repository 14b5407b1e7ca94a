"""Fixtures that all tests share. What needs root or a program says so when it is skipped."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.chance import ALL, QUICK, SEED
from tests.rig.namespace import made_by, remove_those_of_the_dead
from tests.rig.pod import Pod, has, is_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SHARED = Path(__file__).parents[2] / "shared"
"""Records of the reference and the documents the project began with. They are not part of the project."""
NEEDED = ("ip", "nft", "iptables-nft-restore", "iptables-legacy-restore", "ip6tables-nft-save", "sysctl")
BACKENDS = ("nft", "legacy")
every_backend = pytest.mark.parametrize("backend", [*BACKENDS, "native"])
"""Both backends of iptables and our own tables, one after the other."""
ROOM = f"{tempfile.gettempdir()}/capture-tests-{os.getuid()}-{{}}.lock"
TOLD = "told"
"""The property of a report that holds what a test has to tell."""


def pytest_configure() -> None:
    """Told to end, a run tears down what it made, as it does for Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto` one more than there are processors: half of the time a test waits for what does not come.

    Those of `make quick` wait for nothing, and each worker collects all of them.
    """
    return len(os.sched_getaffinity(0)) + (not QUICK)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests had to tell although they passed: what they counted, and the seed of what they drew."""
    told = [
        (report.nodeid.rpartition("::")[2], text)
        for reports in (terminalreporter.getreports("passed"), terminalreporter.getreports("failed"))
        for report in reports
        if report.when == "call"
        for name, text in report.user_properties
        if name == TOLD
    ]
    if told:
        terminalreporter.section("what was counted")
        for test, text in told:
            terminalreporter.write_line(f"{test}: {text}")


LEFT_OUT = {
    ("test_no_fault_leaves_anything_half_done", "nft"): 2,
    ("test_no_fault_leaves_anything_half_done", "legacy"): 2,
    ("test_no_fault_leaves_anything_half_done", "native"): 3,
    ("test_a_scenario_of_the_reference", "native"): 3,
    ("test_any_rule_that_is_missing_is_found", "nft"): 2,
    ("test_any_rule_that_is_missing_is_found", "legacy"): 2,
}
"""Tests of many cases for each backend that take minutes, and of how many one is drawn but for `make test-all`."""


DRAWN_WHERE_SOMEBODY_WAITS = (
    "test_whichever_act_is_refused_all_is_as_it_was",
    "test_exactly_the_settings_without_effect_are_found",
    "test_entries_without_effect_can_go_together",
    "test_packets_fare_alike",
    "test_our_own_tables_are_proved_to_do_what_is_planned",
    "test_what_is_injected_passes_the_schemas",
    "test_a_proxy_is_put_in_and_taken_out_to_the_byte",
    "test_a_manifest_is_injected_and_undone_to_the_byte",
    "test_the_policy_writes_what_inject_writes",
    "test_what_escapes_by_a_long_list",
    "test_the_proof_of_a_long_list",
    "test_the_explanation_of_a_long_list",
    "test_what_was_read_by_hand_is_what_is_found",
    "test_the_summary_of_a_long_list",
    "test_with_one_open_file_more_than_the_streams_it_says_what_is_short",
    "test_a_table_that_somebody_changed_is_not_as_planned",
)
"""Tests that ask the same about many cases, of which `make quick` runs one in five: most of its time was theirs."""


def left_for_later(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """The cases that `make test` runs and `make quick` does not."""
    chance, later = random.Random(SEED), set[pytest.Item]()
    for name in DRAWN_WHERE_SOMEBODY_WAITS if QUICK else ():
        cases = [item for item in items if item.name.partition("[")[0] == name]
        if len(cases) > 4:  # whoever names a few wants those
            later.update(chance.sample(cases, len(cases) * 4 // 5))
    return later


def drawn_away(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The cases that are left out of this run, others of the same test and backend being run."""
    chance, away = random.Random(SEED), list[pytest.Item]()
    for (test, backend), of_how_many in () if ALL else LEFT_OUT.items():
        its = [item for item in items if item.name.partition("[")[0] == test and backend in backend_of(item)]
        if len(its) > 2:  # whoever names one wants that one
            away += chance.sample(its, len(its) - len(its) // of_how_many)
    return away


def backend_of(item: pytest.Item) -> str:
    return item.name.rpartition("[")[2]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests below tests/netns ask the kernel, whether they say so or not; those that want the machine come first.

    All of them come to one worker so, one behind the other, and the others do not stand still at each in turn.
    """
    items.sort(key=lambda item: item.get_closest_marker("storm") is None)
    later = left_for_later(items)
    if later:
        config.hook.pytest_deselected(items=list(later))
        items[:] = [item for item in items if item not in later]
    missing = has(*NEEDED)
    if os.environ.get("CI") and (missing or not is_root()):
        raise pytest.UsageError(f"CI is to ask the kernel: as root, and with {', '.join(missing) or 'all programs'}")
    for item in drawn_away(items):
        item.add_marker(pytest.mark.skip(reason="not drawn in this run: CAPTURE_TESTS=all runs every case"))
    for item in items:
        if "netns" in item.path.parts:
            item.add_marker(pytest.mark.netns)
        if item.get_closest_marker("netns"):
            if not is_root():
                item.add_marker(pytest.mark.skip(reason="making network namespaces takes root"))
            elif missing:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No test leaves a network namespace behind."""
    can_look = is_root() and not has("ip")
    if can_look:
        remove_those_of_the_dead()
    yield
    if can_look:
        assert made_by(os.getpid()) == []


@pytest.fixture(autouse=True)
def room(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests run side by side, but for a storm: a machine that starves loses packets, whatever the rules.

    Whoever comes passes the turnstile; a storm stays in it until the others have left the room, and it has ended.
    """
    is_storm = request.node.get_closest_marker("storm") is not None
    with open(ROOM.format("turnstile"), "w") as turnstile, open(ROOM.format("room"), "w") as inside:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_EX if is_storm else fcntl.LOCK_SH)
        if not is_storm:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say something at the end of the run, whether the test passes or not."""
    return partial(record_property, TOLD)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Both backends of iptables, one after the other."""
    name: str = request.param
    return name


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod with both families, nothing listening yet."""
    with Pod() as made:
        yield made


@pytest.fixture
def ipv4_pod() -> Iterator[Pod]:
    """A pod whose only family is IPv4."""
    with Pod(ipv6=False) as made:
        yield made


@pytest.fixture
def shared() -> Path:
    """The folder of records, for tests that compare with the reference."""
    if not SHARED.is_dir():
        pytest.skip("the records of the reference are not here")
    return SHARED
