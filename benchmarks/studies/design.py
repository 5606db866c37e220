"""Checks of a study's design: its statements are about what the record is going to have."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...analysis.budgets import BUDGET
from ...analysis.verdict import listed
from ...errors import InputError, nearest
from .file import Design, Statement


def check_design(
    design: Design, methods: Sequence[str], axes: Mapping[str, tuple[Sequence[Any], str | None]], study: str
) -> None:
    """InputError for a statement of what the study's record is not going to have.

    axes: by field the values, and the method whose setting it is (None for a field of the benchmark).
    """
    for part in ("yes_if", "no_if"):
        for number, said in enumerate(getattr(design, part)):
            _check(said, methods, axes, f"study {study}: design.{part}.{number}")


def _check(
    said: Statement, methods: Sequence[str], axes: Mapping[str, tuple[Sequence[Any], str | None]], where: str
) -> None:
    named = [said.method, *([said.than] if said.than else [])]
    for name in named:
        if name not in methods:
            raise InputError(f"{where}: {name} is not compared here; {nearest(name, methods)}")
    for field in (*said.at, *([said.along] if said.along else [])):
        if field not in axes:
            raise InputError(f"{where}: {field} is no axis of this study; {nearest(field, axes)}")
    for at, value in said.at.items():
        if value not in axes[at][0]:
            raise InputError(f"{where}: {value!r} is not among the values of {at}; give one of them")
    if said.than == said.method or not (said.than or said.along):
        raise InputError(f"{where}: a statement needs another method (than), an axis (along), or both")
    if said.equal_kl and (said.along or not said.than):
        raise InputError(f"{where}: equal_kl compares two methods (than), and not along an axis; leave out along")
    if said.verdict == "equal" and not said.by.startswith("win_rate."):
        raise InputError(f"{where}: two are equal within a margin of win rates, and {said.by} is none; give one")
    own = {name.partition(":")[0] for name in named}
    alone = next((field for field, (_, of) in axes.items() if of in own), None)
    if said.than and not said.equal_kl and alone:
        raise InputError(f"{where}: {alone} is an axis of one method alone, along which two meet only at equal_kl")
    concerned = {field for field, (_, of) in axes.items() if of is None or (of in own and not said.than)}
    concerned -= {BUDGET} if said.equal_kl else set()
    for field in (*said.at, *([said.along] if said.along else [])):
        if field not in concerned:
            raise InputError(f"{where}: {field} does not tell what is compared here from anything else; leave it out")
    if missing := concerned - {said.along} - set(said.at):
        raise InputError(f"{where}: at which value of {min(missing)} is left open; give it under at")
    if not concerned and not said.equal_kl and (axes or methods[0] not in named):
        beside = "along no axis" if axes else f"beside {methods[0]} alone"
        raise InputError(f"{where}: {listed(named)} are compared {beside} in this study; give equal_kl, or others")
