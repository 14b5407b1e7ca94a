"""The JSON that commands print, as pydantic models: what each field means, for whoever reads it by program."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Printed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ThingModel(_Printed):
    """Something in a namespace."""

    where: str
    """The table with its tool, such as `iptables-nft nat`; or `routing`, `lo`, `nf_tables …`, `legacy`."""
    what: str
    """What it is."""
    why: str
    """Why it was left alone; empty for what was removed."""
    remedy: str
    """The command that removes it, if an older istio-iptables may have left it; else empty."""


class CleanedModel(_Printed):
    """What `capture clean` did."""

    removed: list[ThingModel]
    """What was ours, or was made for it, and is gone."""
    left: list[ThingModel]
    """What was left alone."""
    remaining: list[ThingModel]
    """What is ours and still there. If there is any, the exit status is 1."""
