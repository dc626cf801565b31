"""Settings from JSON5 files and the command line: merged, checked, and every mistake named where it was made."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import json5
from pydantic import BaseModel, ValidationError

from utils.errors import UserError
from utils.files import written_aside
from utils.log import log

Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]

BASE_KEY = "base_config"
MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 50
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


def load_settings(path: Path, schema: type[Model], overrides: Sequence[str] = (), *, root: Path) -> Model:
    """Settings of `path` over the files its `base_config` chain names, with `overrides` ("a.b.c=VALUE") over all.

    `base_config` is looked for from `root`, then beside the file that names it. Objects merge key by key; anything
    else replaces. A value of `overrides` is read as JSON5, or taken as a string where it is not JSON5.

    Raises UserError for whatever is wrong with a file, a key or a value, naming all three.
    """
    tree = _Tree(str(path))
    for name, content in reversed(_base_chain(path, root)):
        tree.merge(content, name)
    return _checked(tree, schema, overrides)


def read_settings(
    path: Path,
    schema: type[Model],
    overrides: Sequence[str] = (),
    *,
    defaults: Path | None = None,
    root: Path = Path(),
    adapt: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Model:
    """Settings that `save_settings` wrote, with `overrides` over them; raises UserError as `load_settings` does.

    What the file lacks comes from the chain of `defaults`. `adapt` turns the file's content, where it was written by
    another program, into keys of the schema.
    """
    tree = _Tree(str(path))
    for name, content in reversed(_base_chain(defaults, root)) if defaults is not None else ():
        tree.merge(content, name)
    content = read_values(path)
    tree.merge(content if adapt is None else adapt(content), str(path))
    return _checked(tree, schema, overrides)


def save_settings(settings: BaseModel, path: Path) -> None:
    """Writes the settings as JSON; `path` never holds half of them."""
    text = json.dumps(settings.model_dump(), indent=2, ensure_ascii=False, allow_nan=False)
    with written_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def resolve_path(path: str, root: Path) -> Path:
    """A path of a config: `~` is the home folder, and what is relative starts at `root`."""
    try:
        return root / Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder; write the whole path") from None


@dataclass
class _Tree:
    """Values merged so far, and which source each key came from."""

    main_source: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, int] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)

    def merge(self, content: Mapping[str, Any], source: str) -> None:
        self.sources.append(source)
        self._merge(self.values, content, ())

    def _merge(self, into: dict[str, Any], content: Mapping[str, Any], prefix: Key) -> None:
        for name, value in content.items():
            key = (*prefix, name)
            self.origins[key] = len(self.sources) - 1
            if isinstance(value, dict):
                if not isinstance(into.get(name), dict):
                    into[name] = {}
                self._merge(into[name], value, key)
            else:
                into[name] = value

    def source_of(self, keys: Sequence[Key]) -> str:
        """Where the last word on any of the keys was said; the main source where none of them was set."""
        found = [index for key in keys for index in [self._origin(key)] if index is not None]
        return self.sources[max(found)] if found else self.main_source

    def _origin(self, key: Key) -> int | None:
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key)


@dataclass(frozen=True)
class _Problem:
    """What is wrong, and the keys whose values made it so: none where a key is missing."""

    text: str
    blamed: tuple[Key, ...] = ()


@cache
def _report_retired(source: str, key: str, reason: str) -> None:
    """Once for each key of each source."""
    log.info("%s: %s is retired and ignored: %s", source, key, reason)


def _checked(tree: _Tree, schema: type[Model], overrides: Sequence[str]) -> Model:
    for override in overrides:
        tree.merge(_parse_override(override), "--set")
    for key, reason in getattr(schema, "retired", {}).items():
        section, name = key.split(".")
        content = tree.values.get(section)
        if isinstance(content, dict) and name in content:
            del content[name]
            _report_retired(tree.source_of([(section, name)]), key, reason)
    # A schema may depend on what one of its keys says.
    schema = getattr(schema, "for_content", lambda _: schema)(tree.values)
    _drop_unused_placeholders(tree.values)
    if problems := list(_unusable_values(tree.values)):
        raise UserError(_one_line(problems, tree))
    described = _Schema(schema.model_json_schema())
    try:
        settings = schema.model_validate(tree.values)
        problems = list(_converted(tree.values, settings.model_dump(), described))
        if not problems:
            return settings
    except ValidationError as error:
        problems = [_explained(dict(details), described) for details in error.errors()]
    raise UserError(_one_line(problems, tree))


def _one_line(problems: list[_Problem], tree: _Tree) -> str:
    told: dict[str, list[str]] = {}
    for problem in problems[:MAX_PROBLEMS]:
        told.setdefault(tree.source_of(problem.blamed), []).append(" ".join(problem.text.split()))
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return "; ".join([f"{source}: {'; '.join(texts)}" for source, texts in told.items()] + more)


def _base_chain(path: Path, root: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of `path` and of its bases, nearest first, without their `base_config`."""
    chain: list[tuple[str, dict[str, Any]]] = []
    seen: list[Path] = []
    while True:
        content = read_values(path)
        seen.append(path.resolve())
        base = content.pop(BASE_KEY, None)
        chain.append((str(path), content))
        if base is None:
            return chain
        if not isinstance(base, str):
            raise UserError(f"{path}: {BASE_KEY} must be the path of a config file; got {_shown(base)}")
        candidates = [resolve_path(base, root), resolve_path(base, path.parent)]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise UserError(f"{path}: {BASE_KEY} names {base}, which is neither under {root} nor beside the file")
        if found.resolve() in seen:
            raise UserError(f"{path}: {BASE_KEY} names {base}, which is based on this file; break the loop")
        path = found


def read_values(path: Path) -> dict[str, Any]:
    """The content of one file, unchecked and without its bases. Raises UserError where it is no object in JSON5."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path}: the file has more than {MAX_FILE_BYTES} bytes; this is no config file")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such config file") from None
    except OSError as error:
        raise UserError(f"{path}: the config file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the config file is not UTF-8 text") from None
    try:
        content = _parse(text)
    except ValueError as error:
        message = re.sub(r"^<string>:(\d+) ", r"line \1: ", " ".join(str(error).split()))
        raise UserError(f"{path}: not valid JSON5: {message}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; at most {MAX_DEPTH} levels are read") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: the file must hold one object {{...}}; it holds {_shown(content)}")
    return content


def _parse(text: str) -> Any:
    """The value of a JSON5 text; raises ValueError for wrong syntax, RecursionError for too many levels."""
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles)
    except ValueError:
        value = json5.loads(text, allow_duplicate_keys=False)
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for item in level if isinstance(item, (dict, list)) for child in _children(item)]
    if level:
        raise RecursionError
    return value


def _children(item: dict[str, Any] | list[Any]) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice")
    return content


def _parse_override(override: str) -> dict[str, Any]:
    """The object that holds nothing but the value of "a.b.c=VALUE"."""
    dotted, equals, text = override.partition("=")
    names = [name.strip() for name in dotted.split(".")]
    if not equals or not all(names):
        raise UserError(f"--set {_shown(override)}: must be KEY=VALUE, such as train.batch_size=8")
    try:
        # Python's name for null: no path and no voice is called that.
        value = None if text.strip() == "None" else _parse(text)
    except ValueError:
        if _PLACEHOLDER.fullmatch(text):
            raise UserError(
                f"--set {_shown(override)}: the value is no JSON5 list; strings in it need quotes, as in "
                f"--set '{dotted}=[\"a\"]'"
            ) from None
        value = text
    except RecursionError:
        raise UserError(f"--set {dotted}: nested too deeply; at most {MAX_DEPTH} levels are read") from None
    content = {names[-1]: value}
    for name in reversed(names[:-1]):
        content = {name: content}
    return content


def _drop_unused_placeholders(values: dict[str, Any]) -> None:
    """Removes `dataset_path` entries that still hold a placeholder and belong to no dataset in use."""
    used, paths = values.get("dataset"), values.get("dataset_path")
    if isinstance(used, list) and isinstance(paths, dict):
        for name in [name for name, path in paths.items() if name not in used and _is_placeholder(path)]:
            del paths[name]


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


def _unusable_values(value: Any, key: Key = ()) -> Iterator[_Problem]:
    """Placeholders that nobody filled in, and numbers that JSON cannot hold."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _unusable_values(child, (*key, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _unusable_values(child, (*key, index))
    elif _is_placeholder(value):
        yield _Problem(f"{_dotted(key)} still holds the placeholder {_shown(value)}; put your own there", (key,))
    elif isinstance(value, float) and not math.isfinite(value):
        yield _Problem(f"{_dotted(key)} must be a finite number; got {value}", (key,))


def _converted(given: Any, read: Any, described: "_Schema", key: Key = ()) -> Iterator[_Problem]:
    """Booleans and fractions that pydantic took for one of several integers."""
    if isinstance(given, dict):
        for name in given.keys() & read.keys():
            yield from _converted(given[name], read[name], described, (*key, name))
    elif isinstance(given, (bool, float)) and type(given) is not type(read):
        yield _Problem(f"{_dotted(key)} must be {described.allowed(key)}; got {_shown(given)}", (key,))


class _Schema:
    """What a JSON schema allows, in words."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._dotted_keys = list(self._walk(schema, ()))

    def allowed(self, key: Key) -> str:
        """What the value at `key` may be."""
        node = self._root
        for part in key:
            node = self._resolved(node)
            other = node.get("items" if isinstance(part, int) else "additionalProperties")
            node = node.get("properties", {}).get(part) or (other if isinstance(other, dict) else node)
        return self._described(node)

    def nearest(self, key: Key) -> str | None:
        """The dotted key that was most probably meant by one that does not exist."""
        dotted = _dotted(key)

        def likeness(known: str) -> tuple[float, float]:
            return _likeness(_last_part(dotted), _last_part(known)), _likeness(dotted, known)

        near = max(self._dotted_keys, key=likeness, default="")
        return near if near and likeness(near)[0] >= 0.6 else None

    def _walk(self, node: dict[str, Any], prefix: Key) -> Iterator[str]:
        node = self._resolved(node)
        names = node.get("propertyNames", {}).get("enum", [])
        children: dict[str, dict[str, Any]] = {name: {} for name in names} | node.get("properties", {})
        for name, child in children.items():
            yield _dotted((*prefix, name))
            yield from self._walk(child, (*prefix, name))

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = self._root["$defs"][_last_part(node["$ref"].replace("/", "."))]
        return node

    def _described(self, node: dict[str, Any]) -> str:
        node = self._resolved(node)
        kind = node.get("type", "value")
        if "anyOf" in node:
            return " or ".join(self._described(choice) for choice in node["anyOf"])
        if "enum" in node or "const" in node:
            choices = [str(choice) for choice in node.get("enum", [node.get("const")])]
            return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        if kind == "array":
            least = node.get("minItems", 0)
            count = f" of {least}" if least == node.get("maxItems") else f" of at least {least}" if least else ""
            return f"a list{count}, each entry {self._described(node.get('items', {}))}"
        limits = [f"{word} {node[name]}" for name, word in _LIMITS.items() if name in node]
        return ", ".join([_KINDS.get(kind, kind), *limits])


def _explained(details: dict[str, Any], described: _Schema) -> _Problem:
    """One of pydantic's errors in words."""
    key: Key = tuple(part for part in details["loc"] if part != "[key]")
    dotted, kind = _dotted(key), details["type"]
    if kind == "extra_forbidden" or "[key]" in details["loc"]:
        value = details["input"]
        while isinstance(value, dict) and len(value) == 1:
            [(name, value)] = value.items()
            key = (*key, name)
        near = described.nearest(key)
        advice = f"; did you mean {near}?" if near else ""
        if near == _dotted(key):
            advice = "; write an object inside an object, not a dot"
        return _Problem(f"{_dotted(key)} is no setting{advice}", (key,))
    if kind == "missing":
        return _Problem(f"{dotted} is missing; it must be {described.allowed(key)}")
    if kind == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        named = tuple((*key, name) for name in details["input"] if re.search(rf"\b{re.escape(name)}\b", message))
        return _Problem(f"{dotted}: {message}" if dotted else message, named or (key,))
    return _Problem(f"{dotted} must be {described.allowed(key)}; got {_shown(details['input'])}", (key,))


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def _last_part(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
