"""Methods and evaluators by name: entry points, and constructor arguments checked before anything runs."""

import ast
import contextlib
import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, Literal, get_args

from ...errors import InputError, nearest
from .intact import refused

Group = Literal["methods", "evaluators"]
Where = str | Callable[[Sequence[str]], str]  # a place for errors, or what gives the place of a field
LONGEST_SHOWN = 200  # characters of a value that errors repeat
BRANCH = re.compile(r"bool|int|float|str|literal\[.*\]")  # what pydantic calls a type among several
PAPER = re.compile(r"[A-Z][\w'-]+(?: et al\.| and [A-Z][\w-]+)? \(\d{4}(?:, arXiv:[\d.]+\d)?\)")


def available(group: Group) -> dict[str, EntryPoint]:
    """Registered plugins of a group, built-ins and third-party alike, by name; nothing is imported."""
    found = {entry.name: entry for entry in entry_points(group=f"alignment_bench.{group}")}
    return dict(sorted(found.items()))


def doubled(group: Group) -> dict[str, str]:
    """Names that several packages register in a group, with those packages; nothing is imported."""
    entries: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=f"alignment_bench.{group}"):
        entries.setdefault(entry.name, []).append(entry)
    owners = {  # a distribution's name takes reading its metadata, so that only theirs is asked for
        name: {entry.dist.name if entry.dist else entry.value for entry in found}
        for name, found in entries.items()
        if len(found) > 1
    }
    return {name: " and ".join(sorted(found)) for name, found in owners.items() if len(found) > 1}


def _told_twice(group: Group, name: str, packages: str) -> InputError:
    return InputError(f"{group[:-1]} {name!r} is registered by {packages}; uninstall all but one of them")


def is_ours(module: str) -> bool:
    """True for a module of this package."""
    return module.startswith("alignment_bench.")


def check_methods(names: Iterable[str]) -> None:
    """InputError for an unknown name among some as people type them; nothing is imported."""
    known, twice = available("methods"), doubled("methods")
    for name in (item.partition(":")[0] for item in names):
        if name in twice:
            raise _told_twice("methods", name, twice[name])
        if name not in known and name != "sft":
            raise InputError(f"there is no method {name!r}; {nearest(name, known)}")


def load(group: Group, name: str) -> type:
    """The class behind a name; InputError if there is none, or if importing it fails."""
    known = available(group)
    if name not in known:
        raise InputError(f"there is no {group[:-1]} {name!r}; {nearest(name, known)}")
    if packages := doubled(group).get(name):
        raise _told_twice(group, name, packages)
    entry = known[name]
    try:
        with _guarded(group, name) if entry.module not in sys.modules else contextlib.nullcontext():
            return entry.load()
    except InputError:
        sys.modules.pop(entry.module, None)  # it would count as imported, and its changes as harmless
        raise
    except Exception as error:
        raise InputError(
            f"{group[:-1]} {name!r} ({known[name].value}) cannot be imported: {error}; repair or uninstall that package"
        ) from error


def _guarded(group: Group, name: str) -> contextlib.AbstractContextManager[None]:
    """What is done with a plugin of another package leaves alone what rows share; ours need no watching."""
    entry = available(group)[name]
    return (
        contextlib.nullcontext()
        if is_ours(entry.module)
        else refused(f"{group[:-1]} {name!r} ({entry.value})", entry.module)
    )


def build(group: Group, name: str, settings: Mapping[str, Any], where: Where) -> Any:
    """Construct a plugin from its settings.

    where: the place the settings come from, for errors. InputError names the field that is unknown, missing, of the
    wrong type or out of range.
    """
    cls = load(group, name)
    fields = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for field in settings:
        if fields and field not in fields:
            raise InputError(f"{_at(where, [field])}: {name} has no parameter {field!r}; {nearest(field, fields)}")
    if not fields:
        _check_numbers(settings, [], where)
        try:
            inspect.signature(cls).bind(**settings)
        except TypeError as error:
            raise InputError(f"{_at(where, [*settings][:1])}: {name}: {error}") from None
    with _guarded(group, name):
        return checked(cls, dict(settings), where) if fields else cls(**settings)


def with_given(plugin: Any, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The same plugin with what a benchmark fills in, whose types are not checked: it may be read from disk lazily.

    settings: those that it was constructed from.
    """
    if dataclasses.is_dataclass(type(plugin)):
        return dataclasses.replace(plugin, **given)
    return type(plugin)(**{**settings, **given}) if given else plugin


def parse_setting(text: str) -> tuple[str, Any]:
    """FIELD=VALUE from the command line; the value is read as YAML. InputError if there is none."""
    field, equals, value = text.partition("=")
    if not equals or not value:
        raise InputError(f"setting {text!r} has no value; give FIELD=VALUE, for example beta=0.05")
    if not re.fullmatch(r"[A-Za-z0-9_.+=-]+", text):
        raise InputError(f"setting {text!r} has characters that no folder's name should have; put it into the YAML")
    return field, read_value(value)


def read_value(text: str) -> Any:
    """A value typed on the command line, read as YAML. InputError if it is none."""
    from .yaml_text import read_yaml

    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text):  # YAML takes 1e-5 for text
        return float(text)
    try:
        return read_yaml(text, "value")[0]
    except InputError:
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise InputError(f"value {shown!r} cannot be read; put it in quotes, as in YAML") from None


def checked(cls: type, settings: dict[str, Any], where: Where) -> Any:
    """Construct a dataclass or pydantic model with types and ranges checked; where: as for `build`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        made: Any = TypeAdapter(cls).validate_python(settings)
        _check_numbers(made, [], where)
        return made
    except ValidationError as error:
        found = error.errors()
        # a mistyped key is told before what is missing for it
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
        location = [str(part) for part in first["loc"]]
        branches = [
            re.sub(r"^Input should be |, unable.*", "", each["msg"])
            for each in found
            if each["loc"] and each["loc"][:-1] == first["loc"][:-1] and BRANCH.fullmatch(str(each["loc"][-1]))
        ]
        if len(branches) > 1:  # one value that is none of several types, of which pydantic tells one after another
            location.pop()
        place, where = ".".join(location) or cls.__name__, _at(where, location)
        if first["type"] == "extra_forbidden":
            names = _names_at(cls, location[:-1])
            raise InputError(f"{where}: there is no field {place!r}; {nearest(location[-1], names)}") from None
        problem = first["msg"][0].lower() + first["msg"][1:]
        if len(branches) > 1:
            problem = "input should be " + " or ".join(branches)
        if first["type"] == "string_pattern_mismatch":  # told by the field's own words rather than its pattern
            fields: Any = getattr(cls, "model_fields", {})
            problem = "give " + fields[location[-1]].description.partition(";")[0].lower()
        value = repr(first["input"])
        value = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}... ({len(value):,} characters)"
        given = "" if first["type"].startswith("missing") else f", not {value}"
        raise InputError(f"{where}: {place}: {problem}{given}") from None


def _check_numbers(value: Any, location: list[str], where: Where) -> None:
    """InputError for a number that is not finite, or that no machine can count with, at any depth of the fields."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "model_fields_set"):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_numbers(part, [*location, str(name)], where)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_numbers(part, location, where)
    elif isinstance(value, float) and not math.isfinite(value) or isinstance(value, int) and abs(value) >= 2**63:
        shown = f"{value}" if isinstance(value, float) else "one of so many digits"
        place = ".".join(location)
        raise InputError(f"{_at(where, location)}: {place}: the number should be finite and below 2^63, not {shown}")


def _at(where: Where, location: Sequence[str]) -> str:
    return where if isinstance(where, str) else where(location)


def _names_at(cls: Any, location: list[str]) -> list[str]:
    """Names of the fields of the nested model at a location of an error."""
    for part in location:
        annotation = cls.model_fields[part].annotation if part in getattr(cls, "model_fields", {}) else None
        models = [each for each in (annotation, *get_args(annotation)) if hasattr(each, "model_fields")]  # or X | None
        if not models:
            return []
        cls = models[0]
    return list(cls.model_fields)


@dataclasses.dataclass(frozen=True)
class Description:
    """A plugin as its source describes it."""

    line: str
    """First line of its docstring."""
    needs: tuple[str, ...]
    """Needs that its class or one that it inherits from declares (`needs_...`): pairs, reference, reward, critic."""
    paper: str
    """The first that its own docstring or its module's names, or those of a class it inherits from."""


def describe(entry: EntryPoint) -> Description:
    """Read a plugin's source without importing it (torch takes seconds)."""
    found = list(inherited(entry.module, entry.attr))
    if not found:
        return Description("(cannot be read)", (), "")
    needs: dict[str, bool] = {}
    for _, node in found:  # the class itself first, so that it may take back what it inherits
        for name, value in _flags(node):
            needs.setdefault(name, value)
    said = (ast.get_docstring(part) or "" for module, node in found for part in (node, _tree(module)))
    papers = (PAPER.search(text) for text in said)
    return Description(
        (ast.get_docstring(found[0][1]) or "").partition("\n")[0],
        tuple(sorted(name.removeprefix("needs_").replace("_", " ") for name, value in needs.items() if value)),
        next((paper[0] for paper in papers if paper), ""),
    )


def inherited(module: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """A class and those that it inherits from, depth first, each with the module that defines it."""
    nodes = _tree(module).body
    bases: list[str] = []
    for node in nodes:
        if isinstance(node, ast.ClassDef) and node.name == name:
            yield module, node
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    elsewhere = {
        alias.asname or alias.name: (
            resolve_name("." * n.level + (n.module or ""), module.rpartition(".")[0]),
            alias.name,
        )
        for n in nodes
        if isinstance(n, ast.ImportFrom)
        for alias in n.names
    }
    for base in bases:
        yield from inherited(*elsewhere.get(base, (module, base)))


@lru_cache
def _tree(module: str) -> ast.Module:
    try:
        found = find_spec(module)
        if found is None or found.origin is None:
            raise ImportError(module)
        return ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    except (ImportError, AttributeError, TypeError, ValueError, OSError, SyntaxError):
        return ast.Module([], [])


def _flags(node: ast.ClassDef) -> Iterator[tuple[str, bool]]:
    for line in node.body:
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
            continue
        if line.target.id.startswith("needs_") and isinstance(line.value, ast.Constant):
            yield line.target.id, bool(line.value.value)
