"""As much of JSON Schema as the page's replies use, so that these are checked by other code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
UNDERSTOOD = {
    *("$defs", "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum"),
    *("items", "maxItems", "minItems", "minimum", "prefixItems", "properties", "required", "title"),
    *("type", "minLength"),
}


def complaints(
    value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$"
) -> list[str]:
    """Return what is wrong with a value."""
    return list(_complaints(value, schema, root, at))


def _complaints(value: Any, schema: Any, root: dict[str, Any], at: str) -> Iterator[str]:
    if unknown := schema.keys() - UNDERSTOOD:
        raise NotImplementedError(f"{at}: {unknown}")
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        yield from _complaints(value, root["$defs"][name], root, at)
    if "anyOf" in schema and all(complaints(value, one, root) for one in schema["anyOf"]):
        yield f"{at}: {value!r} fits none of {schema['anyOf']}"
    if "type" in schema and not _is(value, schema["type"]):
        yield f"{at}: {value!r} is no {schema['type']}"
    elif "type" in schema:
        yield from _inside(value, schema, root, at)
    allowed = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    if value not in allowed:
        yield f"{at}: {value!r} is none of {allowed}"


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean") == isinstance(value, bool)


def _inside(value: Any, schema: Any, root: dict[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield from _object(value, schema, root, at)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _complaints(one, schema.get("items", {}), root, f"{at}[{number}]")


def _object(value: dict[str, Any], schema: Any, root: dict[str, Any], at: str) -> Iterator[str]:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    missing = [name for name in schema.get("required", []) if name not in value]
    yield from (f"{at}: {name} is missing" for name in missing)
    for name, one in value.items():
        if name in known:
            yield from _complaints(one, known[name], root, f"{at}.{name}")
        elif more is False:
            yield f"{at}: {name} is too much"
        elif isinstance(more, dict):
            yield from _complaints(one, more, root, f"{at}.{name}")
