"""Mistakes in settings as one clear line: the source, the dotted key, what is allowed, and the nearest key."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

Key = tuple[str | int, ...]
"""A path into nested settings: names of objects' members and positions in lists."""

MAX_PROBLEMS = 3
_KINDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "object": "an object {...}",
}
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_PLACEHOLDER = re.compile(r"\s*\[.*\]\s*", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """What is wrong, and the keys whose values are the cause; no keys where one is missing."""

    text: str
    causes: tuple[Key, ...] = ()


def one_line(problems: Sequence[Problem], source_of: Callable[[Sequence[Key]], str]) -> str:
    """The first problems in one line, each under the source that `source_of` gives for its causes."""
    texts: dict[str, list[str]] = {}
    for problem in problems[:MAX_PROBLEMS]:
        texts.setdefault(source_of(problem.causes), []).append(" ".join(problem.text.split()))
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return "; ".join([f"{source}: {'; '.join(lines)}" for source, lines in texts.items()] + more)


def unusable_values(value: Any, key: Key = ()) -> Iterator[Problem]:
    """Placeholders that were never filled in, and numbers that JSON cannot hold."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from unusable_values(child, (*key, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from unusable_values(child, (*key, index))
    elif is_placeholder(value):
        yield Problem(f"{dotted(key)} still holds the placeholder {shown(value)}; replace it", (key,))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(f"{dotted(key)} must be a finite number; got {value}", (key,))


def conversions(given: Any, read: Any, schema: type[BaseModel]) -> Iterator[Problem]:
    """Booleans and floats that pydantic converted to one of several allowed integers, which it does in strict mode too.

    `given` are the merged values, `read` is what the schema made of them.
    """
    yield from _conversions(given, read, _Schema(schema.model_json_schema()), ())


def _conversions(given: Any, read: Any, allowed: "_Schema", key: Key) -> Iterator[Problem]:
    if isinstance(given, dict):
        for name in given.keys() & read.keys():
            yield from _conversions(given[name], read[name], allowed, (*key, name))
    elif isinstance(given, (bool, float)) and type(given) is not type(read):
        yield Problem(f"{dotted(key)} must be {allowed.describe(key)}; got {shown(given)}", (key,))


def explain(error: ValidationError, schema: type[BaseModel]) -> list[Problem]:
    """Each of pydantic's errors in words."""
    allowed = _Schema(schema.model_json_schema())
    return [_explain(dict(details), allowed) for details in error.errors()]


def _explain(details: dict[str, Any], allowed: "_Schema") -> Problem:
    key: Key = tuple(part for part in details["loc"] if part != "[key]")
    kind = details["type"]
    if kind == "extra_forbidden" or "[key]" in details["loc"]:
        # Of a.b.c=VALUE with an unknown a, pydantic reports a alone: the user wrote the longer key.
        value = details["input"]
        while isinstance(value, dict) and len(value) == 1:
            [(name, value)] = value.items()
            key = (*key, name)
        near = allowed.nearest(key)
        advice = f"; did you mean {near}?" if near else ""
        if near == dotted(key):
            advice = "; write an object inside an object, not a dot"
        return Problem(f"{dotted(key)} is not a setting{advice}", (key,))
    if kind == "missing":
        return Problem(f"{dotted(key)} is missing; it must be {allowed.describe(key)}")
    if kind == "value_error":
        # Raised by one of the schema's own validators: the keys that its message names are the cause.
        message = details["msg"].removeprefix("Value error, ")
        named = tuple((*key, name) for name in details["input"] if re.search(rf"\b{re.escape(name)}\b", message))
        return Problem(f"{dotted(key)}: {message}" if key else message, named or (key,))
    return Problem(f"{dotted(key)} must be {allowed.describe(key)}; got {shown(details['input'])}", (key,))


class _Schema:
    """A JSON schema, searched by key and described in words."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._dotted_keys = list(self._walk(schema, ()))

    def describe(self, key: Key) -> str:
        """What the value at `key` may be."""
        node = self._root
        for part in key:
            node = self._resolve(node)
            other = node.get("items" if isinstance(part, int) else "additionalProperties")
            node = node.get("properties", {}).get(part) or (other if isinstance(other, dict) else node)
        return self._describe(node)

    def nearest(self, key: Key) -> str | None:
        """The dotted key that is most like an unknown one; None where none is alike."""

        def likeness(known: str) -> tuple[float, float]:
            # The last part counts first: batch_size=8 means train.batch_size.
            return _likeness(_last_part(dotted(key)), _last_part(known)), _likeness(dotted(key), known)

        near = max(self._dotted_keys, key=likeness, default="")
        return near if near and likeness(near)[0] >= 0.6 else None

    def _walk(self, node: dict[str, Any], prefix: Key) -> Iterator[str]:
        node = self._resolve(node)
        names = node.get("propertyNames", {}).get("enum", [])
        children: dict[str, dict[str, Any]] = {name: {} for name in names} | node.get("properties", {})
        for name, child in children.items():
            yield dotted((*prefix, name))
            yield from self._walk(child, (*prefix, name))

    def _resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = self._root["$defs"][node["$ref"].rpartition("/")[2]]
        return node

    def _describe(self, node: dict[str, Any]) -> str:
        node = self._resolve(node)
        kind = node.get("type", "value")
        if "anyOf" in node:
            return " or ".join(self._describe(choice) for choice in node["anyOf"])
        if "enum" in node or "const" in node:
            choices = [str(choice) for choice in node.get("enum", [node.get("const")])]
            return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        if kind == "array":
            least = node.get("minItems", 0)
            count = f" of {least}" if least == node.get("maxItems") else f" of at least {least}" if least else ""
            return f"a list{count}, each entry {self._describe(node.get('items', {}))}"
        limits = [f"{word} {node[name]}" for name, word in _LIMITS.items() if name in node]
        return ", ".join([_KINDS.get(kind, kind), *limits])


def is_placeholder(value: Any) -> bool:
    """Whether a value is text in square brackets, such as "[path of LibriTTS]", for the user to replace."""
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


def dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def shown(value: Any) -> str:
    """A value as JSON, cut to 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def _last_part(dotted_key: str) -> str:
    return dotted_key.rpartition(".")[2]
