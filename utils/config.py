"""Settings from JSON5 files and the command line, merged and checked."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import json5
from pydantic import BaseModel, ValidationError

from utils.config_errors import Key, conversions, explain, is_placeholder, one_line, shown, unusable_values
from utils.errors import UserError
from utils.files import write_json
from utils.log import log

Model = TypeVar("Model", bound=BaseModel)

BASE_KEY = "base_config"
MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 50


def load_settings(path: Path, schema: type[Model], overrides: Sequence[str] = (), *, root: Path) -> Model:
    """Settings of `path`, merged over the files of its `base_config` chain, with `overrides` ("a.b.c=VALUE") over all.

    `base_config` is looked up in `root`, then beside the file that names it. Objects merge key by key; anything else
    replaces. The value of an override is parsed as JSON5, and is a string where that fails.

    Raises UserError naming the file, the key and the value that is wrong.
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

    Keys that the file lacks come from the chain of `defaults`. `adapt` converts the content of a file that another
    program wrote to the schema's keys.
    """
    tree = _Tree(str(path))
    for name, content in reversed(_base_chain(defaults, root)) if defaults is not None else ():
        tree.merge(content, name)
    content = read_values(path)
    tree.merge(content if adapt is None else adapt(content), str(path))
    return _checked(tree, schema, overrides)


def save_settings(settings: BaseModel, path: Path) -> None:
    """Write the settings as JSON, atomically."""
    write_json(path, settings.model_dump(), indent=2)


def resolve_path(path: str, root: Path) -> Path:
    """A path of a config: `~` is the home folder, and a relative path starts at `root`."""
    try:
        return root / Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder; write the whole path") from None


@dataclass
class _Tree:
    """Values merged so far, and for each key the position in `sources` of the source that set it last."""

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
        """The source that was merged last among those that set the keys; the main source where none was set."""
        found = [index for key in keys for index in [self._origin(key)] if index is not None]
        return self.sources[max(found)] if found else self.main_source

    def _origin(self, key: Key) -> int | None:
        # A list's entries have the origin of the list.
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key)


def _checked(tree: _Tree, schema: type[Model], overrides: Sequence[str]) -> Model:
    """The merged values as an object of the schema. Raises UserError for all that is wrong with them, in one line."""
    for override in overrides:
        tree.merge(_parse_override(override), "--set")
    for key, reason in getattr(schema, "retired", {}).items():
        section, name = key.split(".")
        content = tree.values.get(section)
        if isinstance(content, dict) and name in content:
            del content[name]
            _report_retired(tree.source_of([(section, name)]), key, reason)
    # The type of a section may depend on a value, such as `model` on `model_type`.
    schema = getattr(schema, "for_content", lambda _: schema)(tree.values)
    _drop_unused_placeholders(tree.values)
    problems = list(unusable_values(tree.values))
    if not problems:
        try:
            settings = schema.model_validate(tree.values)
            problems = list(conversions(tree.values, settings.model_dump(), schema))
            if not problems:
                return settings
        except ValidationError as error:
            problems = explain(error, schema)
    raise UserError(one_line(problems, tree.source_of))


@cache
def _report_retired(source: str, key: str, reason: str) -> None:
    """Log a retired key, once for each source."""
    log.info("%s: %s is retired and ignored: %s", source, key, reason)


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
            raise UserError(f"{path}: {BASE_KEY} must be the path of a config file; got {shown(base)}")
        candidates = [resolve_path(base, root), resolve_path(base, path.parent)]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise UserError(f"{path}: {BASE_KEY} names {base}, which is neither under {root} nor beside the file")
        if found.resolve() in seen:
            raise UserError(f"{path}: {BASE_KEY} names {base}, which is based on this file; break the loop")
        path = found


def read_values(path: Path) -> dict[str, Any]:
    """The content of one file, unchecked and without its bases. Raises UserError unless it is one JSON5 object."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path}: not a config file: it has more than {MAX_FILE_BYTES} bytes")
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
        raise UserError(f"{path}: nested too deeply; at most {MAX_DEPTH} levels are allowed") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: the file must hold one object {{...}}; it holds {shown(content)}")
    return content


def _parse(text: str) -> Any:
    """The value of a JSON5 text; raises ValueError for wrong syntax, RecursionError for too many levels."""
    try:
        # Most files and values are plain JSON, whose parser is many times faster.
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except ValueError:
        value = json5.loads(text, allow_duplicate_keys=False)
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
    if level:
        raise RecursionError
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice")
    return content


def _parse_override(override: str) -> dict[str, Any]:
    """The object that holds nothing but the value of "a.b.c=VALUE"."""
    dotted_key, equals, text = override.partition("=")
    names = [name.strip() for name in dotted_key.split(".")]
    if not equals or not all(names):
        raise UserError(f"--set {shown(override)}: must be KEY=VALUE, such as train.batch_size=8")
    try:
        # Python's name for null; no path and no language is called None.
        value = None if text.strip() == "None" else _parse(text)
    except ValueError:
        if is_placeholder(text):
            raise UserError(
                f"--set {shown(override)}: the value is not a JSON5 list; strings in it need quotes, as in "
                f"--set '{dotted_key}=[\"a\"]'"
            ) from None
        value = text
    except RecursionError:
        raise UserError(f"--set {dotted_key}: nested too deeply; at most {MAX_DEPTH} levels are allowed") from None
    content = {names[-1]: value}
    for name in reversed(names[:-1]):
        content = {name: content}
    return content


def _drop_unused_placeholders(values: dict[str, Any]) -> None:
    """Remove `dataset_path` entries that still hold a placeholder and belong to no dataset in use."""
    used, paths = values.get("dataset"), values.get("dataset_path")
    if isinstance(used, list) and isinstance(paths, dict):
        for name in [name for name, path in paths.items() if name not in used and is_placeholder(path)]:
            del paths[name]
