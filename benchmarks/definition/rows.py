"""The rows of a comparison's table: which method each is, with which settings and under which label."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ...models.elsewhere import Elsewhere, find_elsewhere
from .plugins import available, build, load, parse_setting
from .spec import BenchmarkSpec


@dataclass(frozen=True)
class Row:
    """A method with its settings, under a label of its own."""

    label: str
    name: str
    """The method's, as it is registered."""
    method: Any
    """None for the SFT checkpoint, with which every row is compared, and for what was trained elsewhere."""
    policy: Elsewhere | None = None
    """The policy of a row that is not trained here."""


SFT = Row("sft", "sft", None)


def method_row(spec: BenchmarkSpec, item: str) -> Row:
    """A row as people ask for it; item: NAME or NAME:FIELD=VALUE:..., over the benchmark's settings.

    InputError for an unknown method or setting, and for a method that needs data the benchmark lacks.
    """
    name, _, rest = item.partition(":")
    typed = dict(parse_setting(text) for text in rest.split(":")) if rest else {}

    def where(location: Sequence[str]) -> str:
        if location and location[0] in typed:
            return f"--method {item}"
        owner = _owner(spec, name)
        given = not location or location[0] in spec.methods.get(owner, {}) or location[0] not in spec.method_defaults
        place = ("methods", owner) if given else ("method_defaults",)
        return f"{spec.place(*place, *location)}, {'.'.join(place)}"

    method = build("methods", name, {**method_settings(spec, name), **typed}, where)
    if getattr(method, "data", "pairs") == "unpaired" and not spec.unpaired:
        raise InputError(
            f"{item} learns from replies rated on their own, and benchmark {spec.name} has none; "
            f"give it `unpaired: FILE` or use data: pairs"
        )
    # trained from another start, a method is another row, whether that was typed or stands in the benchmark
    elsewhere = getattr(method, "start", "sft") != "sft" and "start" not in typed
    return Row(f"{item}:start={method.start}" if elsewhere else item, name, method)


def policy_row(spec: BenchmarkSpec, name: str) -> Row:
    """The row of a policy that was trained elsewhere, one of `spec.policies`.

    InputError for a name that is a method's or no plain word, and for what `find_elsewhere` refuses.
    """
    place = spec.place("policies", name)
    where = f"{place} {name}" if place.startswith("--") else f"{place}, policies.{name}"
    if name == SFT.name or name in available("methods"):
        raise InputError(f"{where}: {name} is the name of a row that is trained here; give the policy another name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"{where}: {name!r} is no name of a policy; use letters, digits, dots, _ and -")
    return Row(name, name, None, find_elsewhere(spec.policies[name], where))


def method_settings(spec: BenchmarkSpec, name: str) -> dict[str, Any]:
    """The benchmark's settings of a method: its defaults for every method, where they are fields, and the method's own.

    A method with `settings_of` (TRL's trainers) takes those of the method of that name.
    """
    cls = load("methods", name)
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    defaults = {k: v for k, v in spec.method_defaults.items() if k in fields}
    return {**defaults, **spec.methods.get(_owner(spec, name), {})}


def _owner(spec: BenchmarkSpec, name: str) -> str:
    """Whose settings in the benchmark a method takes."""
    return name if name in spec.methods else getattr(load("methods", name), "settings_of", name)
