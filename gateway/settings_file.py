"""The settings as a commented TOML file, made from the settings themselves so that it can never be out of date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gateway.settings import Settings
from gateway.settings_sections import Section


def commented_toml() -> str:
    """Every key with its default, commented out, under its meaning."""
    head = ["# consent-gateway: every setting, its default and what it means. Remove the # before what you change."]
    return "\n".join([*head, *_section(Settings, ""), ""])


def _section(model: type[BaseModel], path: str) -> Iterator[str]:
    nested: list[tuple[str, type[BaseModel], bool]] = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner, repeated = _model_in(field.annotation)
        if inner is not None:
            nested.append((f"{path}.{key}" if path else key, inner, repeated))
            continue
        if field.description:
            yield f"# {field.description}"
        yield f"#{key} = {_toml(_default(field))}"
    for where, inner, repeated in nested:
        yield ""
        if inner.__doc__ and inner.__module__ == Section.__module__ and not inner.__doc__.startswith("!!! abstract"):
            yield f"# {inner.__doc__.splitlines()[0]}"
        yield f"#[[{where}]]" if repeated else f"[{where}]" if not _optional(model, where) else f"#[{where}]"
        yield from _section(inner, where)


def _optional(model: type[BaseModel], where: str) -> bool:
    return model.model_fields[where.rpartition(".")[2]].default is None


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The settings model in *annotation*, and whether it is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument, getattr(annotation, "__origin__", None) is tuple
    return None, False


def _default(field: FieldInfo) -> Any:
    return "" if field.is_required() else field.get_default(call_default_factory=True)


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or isinstance(value, Path):
        value = str(value or "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
