"""A description as a tree whose every entry knows its path and, where it was read from a file, its line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gbn.errors import ConversionError, MissingDependencyError, UnsupportedLayer, near_matches

__all__ = ["Faults", "Node", "of_file", "of_object"]

_MOST_CHARACTERS = 16 << 20
_MOST_NODES = 100_000
_MOST_DEPTH = 64
# What PyYAML raises, beside its own errors, at a tag whose text is not of that type.
_ODD = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError)


@dataclass(frozen=True)
class Node:
    """One entry.

    value: a dict of nodes, a list of nodes, or a plain value.
    line: from 1 on; None where it was not read from a file.
    """

    value: Any
    path: str
    line: int | None = None

    def plain(self) -> Any:
        """The entry without paths and lines."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


@dataclass
class Faults:
    """Everything that is wrong with a description, to be raised at once."""

    source: str
    found: dict[tuple[int, str], UnsupportedLayer] = field(default_factory=dict)

    def add(self, node: Node, message: str) -> None:
        """Note what is wrong with an entry."""
        where = node.path or "the whole"
        fault = UnsupportedLayer(where if node.line is None else f"line {node.line}, {where}", message)
        self.found.setdefault((node.line or 0, str(fault)), fault)

    def unknown(self, node: Node, key: str, known: Any) -> None:
        """Note a key that an entry may not have, with the nearest that it may."""
        self.add(node.value[key], f"unknown key {key!r}; {near_matches(key, known)}")

    def check(self) -> None:
        """Raise ConversionError where anything was noted."""
        if self.found:
            count = len(self.found)
            # In the order of the lines; without lines, as they were found.
            ordered = [self.found[key] for key in sorted(self.found, key=lambda key: key[0])]
            raise ConversionError(f"{self.source}: {count} fault{'s' if count > 1 else ''}", ordered)


def of_object(value: Any, path: str = "") -> Node:
    """The tree of dicts and lists; arrays and whatever else are plain values.

    Raises:
        ConversionError: keys that are no strings, or lists without end.
    """
    if path.count(".") + path.count("[") > _MOST_DEPTH:
        raise ConversionError(f"{path[:60]}...: nested more than {_MOST_DEPTH} deep")
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ConversionError(f"{path or 'the whole'}: got the key {wrong[0]!r}, expected a string")
        return Node({key: of_object(item, _joined(path, key)) for key, item in value.items()}, path)
    if isinstance(value, (list, tuple)):
        return Node([of_object(item, f"{path}[{k}]") for k, item in enumerate(value)], path)
    return Node(value, path)


def of_file(path: Path, faults: Faults) -> Node:
    """The tree of a JSON or YAML file; repeated keys are noted in ``faults``.

    Raises:
        ConversionError: not JSON or YAML, with the line; or too large.
        MissingDependencyError: a YAML file, and PyYAML is not installed.
    """
    if path.stat().st_size > _MOST_CHARACTERS:
        raise ConversionError(f"{path.name}: more than {_MOST_CHARACTERS} bytes; keep weights in an .npz file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path.name}: expected text in UTF-8: {error}") from error
    read = _Json if path.suffix.lower() == ".json" else _Yaml
    try:
        return read(text, path.name, faults).node()
    except RecursionError as error:
        raise ConversionError(f"{path.name}: nested too deeply") from error


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class _Reader:
    """What both formats share: limits, and keys that occur twice."""

    def __init__(self, name: str, faults: Faults) -> None:
        self.name, self.faults, self.count = name, faults, 0

    def made(self, value: Any, path: str, line: int, depth: int) -> Node:
        """A node, while they are not too many."""
        self.count += 1
        if self.count > _MOST_NODES:
            raise ConversionError(f"{self.name}: more than {_MOST_NODES} entries; keep weights in an .npz file")
        if depth > _MOST_DEPTH:
            raise ConversionError(f"{self.name}, line {line}: nested more than {_MOST_DEPTH} deep")
        return Node(value, path, line)

    def mapping(self, entries: Iterator[tuple[str, int, Callable[[], Node]]], path: str, line: int, depth: int) -> Node:
        """A node of keys, each with its line and what reads its value."""
        found: dict[str, Node] = {}
        for key, at, read in entries:
            child = read()
            if key in found:
                self.faults.add(Node(None, _joined(path, key), at), f"key {key!r} occurs twice")
            # The line of an entry is that of its key.
            found[key] = Node(child.value, child.path, at)
        return self.made(found, path, line, depth)


class _Json(_Reader):
    """JSON, which the standard library reads without lines: it checks the text, and this finds the places."""

    _TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')

    def __init__(self, text: str, name: str, faults: Faults) -> None:
        super().__init__(name, faults)
        try:
            json.loads(text, parse_constant=self._no_number)
        except json.JSONDecodeError as error:
            raise ConversionError(
                f"{name}, line {error.lineno}: not JSON: {error.msg} (column {error.colno})"
            ) from None
        except ValueError as error:
            raise ConversionError(f"{name}: not JSON: {error}") from None
        self.text = text
        self.tokens = self._TOKEN.finditer(text)
        self.line, self.place = 1, 0
        self.now = ""
        self._next()

    @staticmethod
    def _no_number(name: str) -> float:
        raise ValueError(f"{name} is no number of JSON")

    def _next(self) -> str:
        """Pass on to the next token; the one that was read before."""
        before, match = self.now, next(self.tokens, None)
        if match is not None:
            self.line += self.text.count("\n", self.place, match.start())
            self.place = match.start()
        self.now = match[0] if match else ""
        return before

    def node(self, path: str = "", depth: int = 0) -> Node:
        """The value at the current token."""
        line = self.line
        # Made first, so that too deep or too many entries stop here.
        self.made(None, path, line, depth)
        if self.now == "{":
            self._next()
            return self.mapping(self._entries(path, depth), path, line, depth)
        if self.now == "[":
            self._next()
            return Node(list(self._items(path, depth)), path, line)
        return Node(json.loads(self._next()), path, line)

    def _entries(self, path: str, depth: int) -> Iterator[tuple[str, int, Callable[[], Node]]]:
        while self.now != "}":
            line, key = self.line, json.loads(self._next())
            self._next()
            yield key, line, partial(self.node, _joined(path, key), depth + 1)
            if self.now == ",":
                self._next()
        self._next()

    def _items(self, path: str, depth: int) -> Iterator[Node]:
        count = 0
        while self.now != "]":
            yield self.node(f"{path}[{count}]", depth + 1)
            count += 1
            if self.now == ",":
                self._next()
        self._next()


class _Yaml(_Reader):
    """YAML by PyYAML's safe reader; aliases are followed, and count as often as they are used."""

    # PyYAML takes 1e-3 for a string, as YAML 1.1 has it; everyone else takes it for a number.
    _FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

    def __init__(self, text: str, name: str, faults: Faults) -> None:
        super().__init__(name, faults)
        try:
            import yaml
        except ImportError as error:
            raise MissingDependencyError("pyyaml", "yaml", "reading a YAML file") from error
        self.yaml = yaml
        self.constructor = yaml.constructor.SafeConstructor()
        try:
            self.root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, *_ODD) as error:
            raise self._refused(error) from None
        if self.root is None:
            raise ConversionError(f"{name}: the file is empty")

    def _refused(self, error: Any) -> ConversionError:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        return ConversionError(f"{self.name}{where}: not plain YAML: {getattr(error, 'problem', None) or error}")

    def node(self, root: Any = None, path: str = "", depth: int = 0) -> Node:
        """The tree under a node of PyYAML."""
        root = self.root if root is None else root
        line = root.start_mark.line + 1
        self.made(None, path, line, depth)
        if isinstance(root, self.yaml.MappingNode):
            return self.mapping(self._entries(root, path, depth), path, line, depth)
        if isinstance(root, self.yaml.SequenceNode):
            items = [self.node(item, f"{path}[{k}]", depth + 1) for k, item in enumerate(root.value)]
            return Node(items, path, line)
        return Node(self._scalar(root), path, line)

    def _entries(self, root: Any, path: str, depth: int) -> Iterator[tuple[str, int, Callable[[], Node]]]:
        for key, item in root.value:
            line = key.start_mark.line + 1
            if not isinstance(key, self.yaml.ScalarNode):
                raise ConversionError(f"{self.name}, line {line}: a key is no plain text")
            yield key.value, line, partial(self.node, item, _joined(path, key.value), depth + 1)

    def _scalar(self, node: Any) -> Any:
        if node.style is None and self._FLOAT.fullmatch(node.value):
            return float(node.value)
        try:
            return self.constructor.construct_object(node)
        except (self.yaml.YAMLError, *_ODD) as error:
            where = f"{self.name}, line {node.start_mark.line + 1}"
            raise ConversionError(f"{where}: got {node.value[:40]!r}, no value of {node.tag}: {error}") from None
