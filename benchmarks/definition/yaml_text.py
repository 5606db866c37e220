"""YAML text that need not be trusted: bounded in length, depth and what its aliases come to; plain values only."""

from typing import Any

import yaml

from ...errors import InputError

LONGEST = 2**20  # characters of a file
DEEPEST = 30  # mappings and lists within each other
LONGEST_NUMBER = 1000  # characters
LONGEST_NAME = 200  # characters of a field's name, which errors repeat
MOST_NODES = 20_000  # names and values, every alias counted as what it stands for


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:  # in YAML's base 60 one of 1 MiB takes hours
            raise _Wrong(f"a number of {len(node.value):,} characters", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):  # a date in no calendar, say
            raise _Wrong(f"{str(node.value)[:40]!r} is no {kind}", node.start_mark) from None


class _Wrong(yaml.MarkedYAMLError):
    def __init__(self, problem: str, mark: yaml.Mark):
        super().__init__(None, None, problem, mark)


def read_yaml(text: str, place: str) -> tuple[Any, yaml.Node | None]:
    """The value that a text holds, and its nodes with their lines; InputError with `place` and the line."""
    if len(text) > LONGEST:
        raise InputError(f"{place}: longer than {LONGEST >> 20} MiB, which no benchmark is; give the YAML of one")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, None
        _check(root, (), 0)
        return loader.construct_document(root), root
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}, line {mark.line + 1}" if mark else place
        raise InputError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or 'cannot be parsed'})") from None
    except RecursionError:
        raise InputError(f"{place}: not valid YAML (nested more than {DEEPEST} deep)") from None


def _check(node: yaml.Node, within: tuple[yaml.Node, ...], before: int) -> int:
    """The nodes counted so far with those below this one; _Wrong where they are too many, too deep or in a circle."""
    if any(node is outer for outer in within):
        raise _Wrong("an alias stands within what it names", node.start_mark)
    if len(within) > DEEPEST:
        raise _Wrong(f"nested more than {DEEPEST} deep", node.start_mark)
    count = before + 1
    if count > MOST_NODES:
        field = (*within, node)[:2][-1]  # and not what an alias of it stands for
        raise _Wrong(f"more than {MOST_NODES:,} values, its aliases counted as what they stand for", field.start_mark)
    if isinstance(node, yaml.ScalarNode):
        if "\0" in node.value:
            raise _Wrong("a character of code 0", node.start_mark)
        return count
    for part in node.value:
        if isinstance(part, tuple) and len(part[0].value) > LONGEST_NAME and isinstance(part[0], yaml.ScalarNode):
            raise _Wrong(f"a name of {len(part[0].value):,} characters", part[0].start_mark)
        for below in part if isinstance(part, tuple) else (part,):
            count = _check(below, (*within, node), count)
    return count
