"""The schema of the JSON that commands print, told from the values themselves: from annotations and docstrings.

Values are made without pydantic, which a pod that starts cannot afford. Here each kind of value becomes a pydantic
model; what the model says is what the class says: its docstring, its annotations, the docstrings below its fields and
in its properties.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from functools import cache, reduce
from importlib import import_module
from itertools import pairwise
from operator import or_
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from capture.schemas.answers import fields_of
from rules.addresses import IPv4Address, IPv6Address
from rules.netfilter.rulesets import Rule
from rules.value import Enum, Value

DIALECT = "https://json-schema.org/draft/2020-12/schema"
VERSION = 1
"""Of the format of what commands print: raised when a field goes or changes its meaning, not when one comes."""


def schema(command: str, kind: Any) -> dict[str, Any]:
    """The JSON schema of what a command prints: a kind of value, or a union of kinds of which each line is one."""
    head = {"$schema": DIALECT, "$id": f"urn:capture:{command}:{VERSION}", "version": VERSION}
    body = TypeAdapter(json_type(kind)).json_schema(mode="serialization")
    what = "All of what `{}` prints." if get_origin(kind) is tuple else "One line of `{}`."
    body.setdefault("description", what.format(f"capture {command} --output json"))
    return head | body | {"title": command.capitalize()}


@cache
def model(kind: type[Value]) -> type[BaseModel]:
    """The pydantic model of a kind of value. Raises TypeError if it tells what is not described, or has no JSON."""
    fields: dict[str, Any] = {}
    for path in fields_of(kind):
        *way, name = path.split(".")
        owner = reduce(hint_of, way, kind)
        described = descriptions(owner).get(name)
        if not described:
            raise TypeError(f"{owner.__name__}.{name} has no docstring, which is its description in JSON")
        fields[name] = (json_type(hint_of(owner, name)), Field(description=described))
    return create_model(
        f"{kind.__name__}Model",
        __doc__=inspect.cleandoc(kind.__doc__ or ""),
        __config__=ConfigDict(frozen=True, title=kind.__name__),
        **fields,
    )


def json_type(hint: Any) -> Any:
    """What a field with this annotation is in JSON, as `capture.schemas.answers.as_json` writes it."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        kinds = tuple(dict.fromkeys(map(json_type, arguments)))
        union = reduce(or_, kinds)
        are_lines = len(kinds) > 1 and all(isinstance(each, type) and issubclass(each, Value) for each in arguments)
        return Annotated[union, Field(discriminator=fields_of(arguments[0])[0])] if are_lines else union
    if get_origin(hint) is tuple and arguments[1:] == (...,):
        return GenericAlias(list, (json_type(arguments[0]),))
    if get_origin(hint) is Literal or hint is Any or hint in (str, bool, int, float, NoneType):
        return hint
    if issubclass(hint, Rule | IPv4Address | IPv6Address):
        return str
    if issubclass(hint, Enum):
        return Literal[tuple(each.value for each in hint)]
    if issubclass(hint, Value):
        return model(hint)
    raise TypeError(f"JSON has nothing for {hint}")


def hint_of(kind: type[Value], name: str) -> Any:
    """What the annotation of a kind's field or property means."""
    names, declared = Names(kind.__module__), vars(kind)[name]
    if isinstance(declared, property):
        return get_type_hints(declared.fget, {}, names)["return"]
    return get_type_hints(kind, {}, names)[name]


def descriptions(kind: type[Value]) -> dict[str, str]:
    """The docstrings below a kind's fields, and of its properties, by name; with JSON's word for None."""
    found: dict[str, str] = {name: it.__doc__ or "" for name, it in vars(kind).items() if isinstance(it, property)}
    (body,) = (
        it.body for it in parsed(kind.__module__).body if isinstance(it, ast.ClassDef) and it.name == kind.__name__
    )
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found[name] = text
            case _:
                pass
    return {name: re.sub(r"\bNone\b", "null", " ".join(text.split())) for name, text in found.items()}


class Names(dict[str, Any]):
    """The names of a module. Those below its `if TYPE_CHECKING` are found when they are asked for."""

    def __init__(self, module: str) -> None:
        super().__init__(vars(typing) | vars(import_module(module)))
        self.module = module

    def __missing__(self, name: str) -> Any:
        for guarded in (it for it in parsed(self.module).body if isinstance(it, ast.If)):
            for statement in guarded.body:
                match statement:
                    case ast.ImportFrom(module=str(module), names=names) if name in [it.name for it in names]:
                        return Names(module)[name]
                    case ast.AnnAssign(target=ast.Name(made), value=ast.expr() as value) if made == name:
                        return eval(ast.unparse(value), {}, self)  # noqa: S307 # a type alias of our own source
                    case _:
                        pass
        raise KeyError(name)


@cache
def parsed(module: str) -> ast.Module:
    """The source of a module."""
    return ast.parse(inspect.getsource(import_module(module)))
