"""The wait for captured connections to end, on a clock of ours."""

from __future__ import annotations

import pytest

from capture.errors import CaptureError
from capture.log import Log
from capture.steps.acts import ENDING_SIGNALS
from capture.steps.release import BETWEEN, Release
from rules.addresses import IPv4Address
from rules.connections.flow import TCP, Flow

FLOW = Flow(TCP, IPv4Address("10.244.0.5"), 40000, IPv4Address("9.9.9.9"), 80)


class Part:
    """What a change lets go of: connections that it cuts, or that go on."""

    def __init__(self, *, cuts: bool) -> None:
        self.is_cut = cuts

    def cuts(self, entry: object) -> bool:  # noqa: ARG002 # every one
        return self.is_cut


class Entry:
    began = FLOW


class Clock:
    """Time that passes where somebody sleeps; a connection is open until then."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("capture.steps.release.time.monotonic", lambda: made.now)
    monkeypatch.setattr("capture.steps.release.time.sleep", made.sleep)
    return made


def waiting(monkeypatch: pytest.MonkeyPatch, clock: Clock, *, patience: float, ends: float, cuts: bool) -> Release:
    """A wait for one connection that ends after so many seconds."""
    until = clock.now + ends
    made = Release((), patience)
    held = [(Part(cuts=cuts), Entry())]
    monkeypatch.setattr(Release, "held", lambda _: held if clock.now < until else [])
    return made


def test_it_is_over_when_the_last_connection_has_ended(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not later than one look, and nothing is cut."""
    wait = waiting(monkeypatch, clock, patience=30, ends=3, cuts=True)
    wait.do(Log())
    assert 103 <= clock.now < 103 + 2 * BETWEEN
    assert wait.cut == ()
    assert "All captured connections have ended, after 3" in capsys.readouterr().err


@pytest.mark.parametrize("cuts", [True, False])
def test_it_ends_when_patience_does(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, capsys: pytest.CaptureFixture[str], cuts: bool
) -> None:
    """Whatever is still open is said to be reset, or to go on through the proxy."""
    wait = waiting(monkeypatch, clock, patience=5, ends=60, cuts=cuts)
    wait.do(Log())
    assert 105 <= clock.now < 105 + 2 * BETWEEN
    said = capsys.readouterr().err
    assert wait.cut == ((FLOW,) if cuts else ())
    assert ("1 captured connection did not end in 5 s and will be reset" in said) is cuts
    assert ("1 captured connection will go on through the proxy" in said) is not cuts


def test_told_to_end_it_gives_up(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """So that the capture is put back as it was."""
    wait = waiting(monkeypatch, clock, patience=30, ends=60, cuts=True)
    monkeypatch.setattr(
        "capture.steps.release._signal.sigpending", lambda: {ENDING_SIGNALS[0]} if clock.now > 102 else set()
    )
    with pytest.raises(CaptureError, match="told to end"):
        wait.do(Log())
    assert 102 < clock.now < 102 + 2 * BETWEEN


@pytest.mark.parametrize("patience", [0, 30])
def test_a_kernel_that_does_not_tell_is_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch, patience: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked to wait, a run refuses; else it says that connections will be reset."""

    def refused(_: Release) -> None:
        raise OSError(1, "not permitted")

    monkeypatch.setattr(Release, "held", refused)
    if patience:
        with pytest.raises(CaptureError, match="cannot wait for captured connections"):
            Release((), patience).announced([], Log())
    else:
        assert Release((), patience).announced([], Log()) == []
        assert "how many, the kernel does not tell: not permitted" in capsys.readouterr().err
