"""What the commands that look at a namespace print as JSON: pydantic models, and how they are filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from capture.difference import chain_diffs, other_lines

if TYPE_CHECKING:
    from capture.difference import ChainDiff, Line
    from capture.verify import Comparison
    from rules.compare import Finding

VERDICTS = Literal["as planned", "differs", "nothing"]


class Model(BaseModel):
    """What every model here has."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)


class FindingModel(Model):
    """One difference between what is live and what is planned."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Finding")

    kind: Literal[
        "rule missing",
        "rule unexpected",
        "rule doubled",
        "rule reordered",
        "chain missing",
        "chain left over",
        "jump missing",
        "jump left over",
        "jump doubled",
        "jump moved",
        "rule of others above ours",
        "not tracked",
        "ip rule missing",
        "ip rule doubled",
        "ip rule left over",
        "route missing",
        "route left over",
        "address missing",
        "address left over",
    ]
    """What is the matter. The names stay the same from version to version."""
    backend: str
    """nft or legacy; empty for ip rules, routes and addresses."""
    family: Literal["IPv4", "IPv6"]
    """Whose table, rule, route or address it is."""
    table: str
    """raw, mangle, nat or filter; empty for ip rules, routes and addresses."""
    chain: str
    """The chain; empty likewise."""
    position: int | None
    """Where in the live chain, counted from 1; null for what is not there."""
    planned_position: int | None
    """Where in the planned chain; of our jumps in a built-in chain, which of them. Null for what is not planned."""
    rule: str
    """The rule in iptables' words, or the ip rule, route or address; empty for a chain."""
    why: str
    """What it is for, where the plan tells."""
    setting: str
    """The setting that asked for it; empty if every capture has it."""
    repaired_by_rerun: bool
    """Whether a rerun puts it right."""
    sentence: str
    """All of this in a sentence, with what a rerun does."""


class VerifyModel(Model):
    """What `capture verify` found."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Verify")

    verdict: VERDICTS
    """as planned: exit status 0. differs: 4. nothing: nothing of ours is here, 3."""
    backend: str
    """The backend of iptables that a run would use."""
    findings: list[FindingModel]
    """Every difference, by backend, family, table, chain and position; of an empty namespace, all that is missing."""


class LineModel(Model):
    """A rule, ip rule, route or address that stays, goes or comes."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Line")

    op: Literal[" ", "-", "+"]
    """A space: it stays; -: it goes; +: it comes."""
    text: str
    """A rule as iptables-save writes it; anything else as ip(8) lists it."""
    why: str
    """What it is for, where the plan tells."""


class HunkModel(Model):
    """Changes that stand together, with context around them. Starts count from 1; 0 where nothing is."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Hunk")

    live_start: int
    """The position of its first live rule."""
    live_count: int
    """How many live rules it shows."""
    planned_start: int
    """The position that its first rule will have."""
    planned_count: int
    """How many rules there will be."""
    lines: list[LineModel]
    """In order."""


class ChainDiffModel(Model):
    """What a run would change in one chain."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="ChainDiff")

    backend: Literal["nft", "legacy"]
    """Of iptables."""
    family: Literal["IPv4", "IPv6"]
    """Whose table it is."""
    table: str
    """raw, mangle, nat or filter."""
    chain: str
    """A chain of ours, or a built-in one, in which the rules of others are context."""
    change: Literal["changed", "made", "removed"]
    """Whether the chain stays, comes or goes."""
    hunks: list[HunkModel]
    """In order; none for a chain that comes or goes empty."""


class DiffModel(Model):
    """What `capture diff` shows."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, title="Diff")

    verdict: VERDICTS
    """as planned: exit status 0. differs: 4. nothing: nothing of ours is here, 3."""
    backend: str
    """The backend of iptables that a run would use."""
    chains: list[ChainDiffModel]
    """Each chain that a run would change, by backend, family and table."""
    ip: list[LineModel]
    """The ip rules, routes and addresses that would come or go."""
    beyond_repair: list[FindingModel]
    """What keeps traffic from being captured and is not ours to change."""


def line_model(line: Line) -> LineModel:
    return LineModel(op=line.op, text=line.text, why=line.why)


def chain_diff_model(diff: ChainDiff) -> ChainDiffModel:
    return ChainDiffModel(
        backend=diff.backend,  # type: ignore[arg-type] # pydantic checks it
        family=diff.family.value,
        table=diff.table,
        chain=diff.chain,
        change=diff.change,
        hunks=[
            HunkModel(
                live_start=hunk.live_start,
                live_count=hunk.live_count,
                planned_start=hunk.planned_start,
                planned_count=hunk.planned_count,
                lines=list(map(line_model, hunk.lines)),
            )
            for hunk in diff.hunks
        ],
    )


def diff_model(found: Comparison) -> DiffModel:
    return DiffModel(
        verdict=found.verdict,
        backend=found.backend,
        chains=list(map(chain_diff_model, chain_diffs(found))),
        ip=list(map(line_model, other_lines(found))),
        beyond_repair=[finding_model(each) for each in found.findings if not each.can_be_repaired],
    )


def finding_model(found: Finding) -> FindingModel:
    return FindingModel(
        kind=found.kind.value,
        backend=found.backend,
        family=found.family.value,
        table=found.table,
        chain=found.chain,
        position=found.position or None,
        planned_position=found.planned_position or None,
        rule=found.text,
        why=found.why,
        setting=found.setting,
        repaired_by_rerun=found.can_be_repaired,
        sentence=str(found),
    )


def verify_model(found: Comparison) -> VerifyModel:
    return VerifyModel(
        verdict=found.verdict, backend=found.backend, findings=[finding_model(each) for each in found.findings]
    )
