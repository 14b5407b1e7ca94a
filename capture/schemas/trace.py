"""The answer of `capture trace` as a pydantic model, for those who read it by program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from rules.netfilter.iptables_text import rule_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rules.simulator.simulate import Step, Trace


class _Documented(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)


class PacketModel(_Documented):
    """The packet that was asked about."""

    direction: str
    """`out` or `in`."""
    family: str
    """`IPv4` or `IPv6`."""
    protocol: str
    source: str
    source_port: int | None
    """Null: one that the kernel chooses."""
    destination: str
    port: int
    interface: str
    """The one it arrives on, or by which it would leave."""
    uid: int | None
    """Null: it comes from outside."""
    gid: int | None
    mark: int
    state: str
    """What conntrack makes of it."""


class StepModel(_Documented):
    """A rule that the packet was asked, in order."""

    hook: str
    """The built-in chain in which the walk through the table began."""
    table: str
    chain: str
    position: int
    """In its chain, counted from 1."""
    rule: str
    """As iptables-save has it, without `-A` and the chain."""
    why: str
    """What it is for; empty if it is none of ours."""
    option: str
    """The setting that asked for it, with value and origin; empty if none did."""
    setting: str
    """The same setting by its name in the schema of the settings."""
    matched: bool | None
    """Null if that cannot be told."""
    backend: str
    """With `--live`, `nft` or `legacy`; else empty."""


class TraceModel(_Documented):
    """What becomes of a packet, and why."""

    outcome: str
    """`captured outbound`, `captured inbound`, `captured dns`, `redirected`, `bypassed`, `delivered`, `dropped`,
    `refused` or `depends`."""
    to_address: str | None
    """Where it goes in the end; null if nowhere, or if that depends."""
    to_port: int | None
    decided_by: StepModel | None
    """The rule that decided it; null if it fell through them all, or something other than a rule decided."""
    packet: PacketModel
    steps: list[StepModel]
    """Every rule it was asked."""
    depends_on: list[StepModel]
    """The rules that cannot be asked, if it depends."""
    notes: list[str]
    """What was assumed."""
    sentence: str
    """The answer in one sentence."""


def model_of(
    trace: Trace,
    sentence: str,
    notes: Iterable[str],
    said: Callable[[str], str],
    backend_of: Callable[[Step], str],
) -> TraceModel:
    """The model of a trace; `said` tells how the operator said a setting."""

    def step_of(step: Step) -> StepModel:
        rule = step.rule
        option = said(rule.setting) if rule.setting else ""
        return StepModel(
            hook=step.hook,
            table=step.table,
            chain=step.chain,
            position=step.position,
            rule=rule_text(rule),
            why=rule.why,
            option=option,
            setting=rule.setting,
            matched=step.matched,
            backend=backend_of(step),
        )

    packet = trace.packet
    return TraceModel(
        outcome=trace.became.value,
        to_address=None if trace.address is None else str(trace.address),
        to_port=trace.port,
        decided_by=step_of(trace.decided) if trace.decided else None,
        packet=PacketModel(
            direction=packet.direction.value,
            family=packet.family.value,
            protocol=packet.protocol,
            source=str(packet.source),
            source_port=packet.source_port,
            destination=str(packet.destination),
            port=packet.port,
            interface=packet.interface,
            uid=packet.uid,
            gid=packet.gid,
            mark=packet.mark,
            state=packet.state,
        ),
        steps=list(map(step_of, trace.steps)),
        depends_on=list(map(step_of, trace.depends_on)),
        notes=list(notes),
        sentence=sentence,
    )
