"""The settings as a pydantic model: for those who validate, generate or document them rather than start a pod.

The model is made from the declarations in `capture.settings.declared`, so a setting is declared once; each of its
fields is checked by the very reader that checks the flag. Building it takes longer than applying rules does, which is
why the init path uses the declarations and leaves this module alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, create_model
from pydantic.json_schema import GenerateJsonSchema

from capture.settings import parsers
from capture.settings.declared import FILED, Declaration, Origin, Settings
from capture.settings.parsers import Name
from rules.netfilter.values import All

LIST = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}


ALL_OR_LIST = {"anyOf": [{"const": "*"}, LIST]}


PORT = {"type": "integer", "minimum": 1, "maximum": 65535}


U32 = {"type": "integer", "minimum": 1, "maximum": parsers.HIGHEST_U32}


DURATION = {"anyOf": [{"type": "string", "examples": ["500ms"]}, {"type": "number", "exclusiveMinimum": 0}]}


SCHEMAS: dict[Any, dict[str, Any]] = {
    parsers.port: PORT,
    parsers.mark: U32,
    parsers.routing_table: U32,
    parsers.boolean: {"type": "boolean"},
    parsers.duration: DURATION,
    parsers.whole_seconds: DURATION,
    parsers.ports: LIST,
    parsers.cidrs: LIST,
    parsers.interfaces: LIST,
    parsers.owners: LIST,
    parsers.all_or_ports: ALL_OR_LIST,
    parsers.all_or_cidrs: ALL_OR_LIST,
    parsers.owner_groups: ALL_OR_LIST,
    parsers.uid_ranges: LIST,
    parsers.addresses: LIST,
    parsers.udp_policies: LIST,
    parsers.ports_of_users: LIST,
    parsers.rate: {"type": "integer", "minimum": 1, "maximum": 100},
    parsers.nflog_group: PORT,
}
"""What each reader takes, in JSON. Everything else is a string."""


def plain(value: Any) -> Any:
    """A setting's value as JSON has it: `*`, numbers, strings, lists of them, or null where nothing was said."""
    if isinstance(value, All):
        return "*"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    if isinstance(value, Name):
        return value.name
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def written(setting: Declaration, value: Any) -> str:
    """A JSON value as the text that the setting's flag would be given; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return setting.separator.join(written(setting, entry) for entry in value)
    if setting.is_duration and isinstance(value, int | float):
        return f"{value:g}s" if float(f"{value:g}") == value >= 1e-3 else f"{Decimal(repr(value)):f}s"
    return str(plain(value))


def field(setting: Declaration) -> tuple[Any, Any]:
    """The pydantic field of a setting: any JSON that its flag could be given, read as the flag is."""

    def read(value: Any) -> Any:
        return None if value is None else setting.read(written(setting, value))

    schema = SCHEMAS.get(setting.read, {"type": "string"})
    annotation = Annotated[Any, BeforeValidator(read), PlainSerializer(plain, when_used="json"), WithJsonSchema(schema)]
    flags = [flag for flag in (setting.short, setting.long) if flag]
    names: dict[str, Any] = {"flags": flags, "variables": list(setting.env)}
    if setting.default is not None:
        names["default"] = plain(setting.default)
    return annotation, Field(default=setting.default, description=setting.about, json_schema_extra=names)


class _Checked(BaseModel):
    """What every model of settings has."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Settings of capture")

    def settings(self) -> Settings:
        """The same values for everything that takes `Settings`; what was set here has this model as its origin."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return Settings(values, {name: Origin("model") for name in values})


SettingsModel: type[_Checked] = create_model(
    "SettingsModel",
    __base__=_Checked,
    **{setting.name: field(setting) for setting in FILED},  # type: ignore[call-overload] # known at run time only
)
"""Every setting by name. Raises pydantic's ValidationError, with the sentences that the flags are refused with."""


class _Generator(GenerateJsonSchema):
    """Defaults are written by `plain`, for pydantic has no JSON for ours."""

    ignored_warning_kinds = frozenset({"non-serializable-default"})  # type: ignore[assignment] # a set, of which this is one


def config_schema() -> dict[str, Any]:
    """The JSON schema of settings: of what `--config` reads, and for those who generate pod specs."""
    return SettingsModel.model_json_schema(schema_generator=_Generator)
