"""A study: methods and seeds crossed with fields (axes), and the runs that this takes.

An axis is a field of the benchmark, dotted (labels.flip), whose values are runs of their own, for their contracts
differ; or a setting of one of the methods (dpo.beta, methods.dpo.beta), whose values are rows of the same run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ...analysis.budgets import BUDGET
from ...errors import InputError
from ...results.integrity import digest, read_record
from ...results.run_folder import SUMMARY, TUNE
from ..definition.options import Options, chosen_spec
from ..definition.plugins import available, parse_setting, read_value
from ..definition.rows import Row, method_row
from ..definition.spec import BenchmarkSpec
from ..definition.yaml_file import Written
from .design import check_design
from .file import SEED_FIELDS, SPLIT, Design, published, read_file


@dataclass(frozen=True)
class Axis:
    """A field and its values."""

    field: str
    values: tuple[Any, ...]
    place: str
    """Where it was written, for errors."""
    method: str | None
    """The method whose setting it is; None for a field of the benchmark."""

    @property
    def setting(self) -> str:
        """The name of the method's setting."""
        return self.field.rpartition(".")[2]


@dataclass(frozen=True)
class StudyRun:
    """One run of a study."""

    spec: BenchmarkSpec
    labels: dict[str, tuple[str, dict[str, int]]]
    """Rows by label: the method as it was asked for, and the places of its values on the axes of its settings."""
    at: dict[str, int]
    """Places of the run's values on the axes of the benchmark's fields."""
    world: dict[str, int]
    """The number of the seed of each source of `per_seed`."""


@dataclass(frozen=True)
class Study:
    """What is compared, along what."""

    name: str
    spec: BenchmarkSpec
    methods: tuple[str, ...]
    seeds: int
    axes: tuple[Axis, ...]
    per_seed: tuple[str, ...] = ()
    tuned: Path | None = None
    """Folder of a tuning whose winners are told of beside."""
    design: Design | None = None

    def __post_init__(self) -> None:
        """Tell about all that cannot be, before anything trains."""
        if not self.axes and not self.per_seed and not self.design:  # whose question may be of the methods alone
            raise InputError(f"study {self.name} varies nothing; give it axes, for example labels.flip: [0, 0.25]")
        if self.design:
            check_design(self.design, self.methods, {a.field: (a.values, a.method) for a in self.axes}, self.name)
        if self.per_seed and self.seeds < 2:
            raise InputError(f"study {self.name}: per_seed needs two seeds or more to tell variation from; set seeds")
        if self.spec.policies:
            place = self.spec.place("policies")
            raise InputError(
                f"{place}: policies that were trained elsewhere vary along no axis; leave them out of a study"
            )
        seen: dict[str, Axis] = {}
        for axis in self.axes:
            if axis.field in seen:
                raise InputError(
                    f"{axis.place}: {axis.field} is an axis already ({seen[axis.field].place}); leave one out"
                )
            if axis.field in [SEED_FIELDS[source] for source in self.per_seed]:
                raise InputError(f"{axis.place}: {axis.field} is varied by per_seed as well; leave one of the two out")
            seen[axis.field] = axis
        if "sft" in self.per_seed and self.spec.sft is None:
            raise InputError(f"study {self.name}: per_seed names sft, and no SFT is trained (sft: null); leave it out")
        if len(set(self.per_seed)) < len(self.per_seed):
            raise InputError(f"study {self.name}: per_seed names a stage twice; name each once")
        if self.tuned and BUDGET not in seen:
            raise InputError(f"study {self.name}: tuned is told of along the axis {BUDGET}; add that under axes")
        if self.tuned and not (Path(self.tuning.get("run", "")) / SUMMARY).is_file():
            raise InputError(
                f"study {self.name}: there is no finished run of the winners of {self.tuned}; give its bench tune "
                f"command again, from the same folder"
            )

    @cached_property
    def tuning(self) -> dict[str, Any]:
        """tune.json of the tuning that it names."""
        assert self.tuned
        if not (self.tuned / TUNE).is_file():
            raise InputError(
                f"study {self.name}: {self.tuned} holds no {TUNE}; give under tuned the folder that bench tune named"
            )
        return read_record(self.tuned / TUNE)

    @property
    def id(self) -> str:
        """Hash of all that defines the study."""
        axes = [[axis.field, axis.values] for axis in self.axes]
        parts = [self.spec.model_dump(mode="json"), self.methods, self.seeds, axes, self.per_seed]
        return digest([*parts, *([self.tuning["study"]] if self.tuned else [])])[:12]

    def runs(self) -> list[StudyRun]:
        """The runs, in the order of the axes' values. InputError for a field that is none and a value it refuses."""
        shared = [axis for axis in self.axes if axis.method is None]
        found = []
        for places in product(*(range(len(axis.values)) for axis in shared)):
            for world in self.worlds():
                spec = self.spec
                for axis, place in zip(shared, places, strict=True):
                    spec = spec.with_fields({axis.field: axis.values[place]}, axis.place)
                for source, number in world.items():
                    field = SEED_FIELDS[source]
                    first = spec.split_seed if source == SPLIT else getattr(spec, source).seed
                    spec = spec.with_fields({field: first + number}, "per_seed")
                at = {axis.field: place for axis, place in zip(shared, places, strict=True)}
                labels = {label: found for item in self.methods for label, found in self._rows(spec, item)}
                found.append(StudyRun(spec, labels, at, world))
        return found

    def worlds(self) -> list[dict[str, int]]:
        """Numbers of the seeds of the sources: none moved, all moved together, and each moved alone."""
        none = dict.fromkeys(self.per_seed, 0)
        together = [dict.fromkeys(self.per_seed, number) for number in range(1, self.seeds)]
        alone = [{**none, source: number} for source in self.per_seed for number in range(1, self.seeds)]
        return list({tuple(w.items()): w for w in ([none, *together, *alone] if self.per_seed else [none])}.values())

    def _rows(self, spec: BenchmarkSpec, item: str) -> Iterator[tuple[str, tuple[str, dict[str, int]]]]:
        """The labels of a method with all values of the axes of its settings."""
        name, _, rest = item.partition(":")
        typed = [parse_setting(text)[0] for text in rest.split(":")] if rest else []
        own = [axis for axis in self.axes if axis.method == name]
        for axis in own:
            if axis.setting in typed:
                raise InputError(f"{axis.place}: {item} sets {axis.setting} itself; leave out the one or the other")
        for places in product(*(range(len(axis.values)) for axis in own)):
            chosen = list(zip(own, places, strict=True))
            label = ":".join([item, *(f"{axis.setting}={_typed(axis.values[place])}" for axis, place in chosen)])
            yield self._checked(spec, label, own).label, (item, {axis.field: place for axis, place in chosen})

    def _checked(self, spec: BenchmarkSpec, label: str, own: Sequence[Axis]) -> Row:
        try:
            return method_row(spec, label)
        except InputError as error:
            if not own:
                raise
            # the label was put together here, so the axis is what must be changed
            places = " and ".join(axis.place for axis in own)
            raise InputError(str(error).replace(f"--method {label}", places)) from None


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def make_axis(field: str, values: Sequence[Any], place: str, methods: Sequence[str]) -> Axis:
    """An axis of a field as it was written. InputError for fewer than two values, and a method that is not there."""
    distinct = {json.dumps(value, default=str) for value in values}
    if len(distinct) < 2 or len(distinct) < len(values):
        what = "has fewer than two values" if len(distinct) < 2 else "has a value twice"
        raise InputError(f"{place}: {field} {what}; an axis needs two different values or more")
    bare = field.removeprefix("methods.")
    head, _, setting = bare.partition(".")
    if head not in available("methods") or not setting or "." in setting:
        return Axis(field, tuple(values), place, None)
    names = [item.partition(":")[0] for item in methods]
    if head not in names:
        raise InputError(
            f"{place}: {field} is a setting of {head}, which is not compared here ({', '.join(names)}); add it"
        )
    return Axis(bare, tuple(values), place, head)


def read_study(path: str) -> Study:
    """The study of a name or a YAML file. InputError names file, line and field."""
    found, written = read_file(path)
    settings = [f"{field}={json.dumps(value)}" for field, value in found.settings.items()]
    benchmark = found.benchmark
    beside = published().get(path, Path(path)).parent / benchmark
    spec = chosen_spec(str(beside) if beside.is_file() else benchmark, found.methods, Options(settings=settings))
    axes = tuple(
        make_axis(field, values, _place(written, field), found.methods) for field, values in found.axes.items()
    )
    methods, tuned = tuple(dict.fromkeys(found.methods)), Path(found.tuned) if found.tuned else None
    return Study(found.name, spec, methods, found.seeds, axes, tuple(found.per_seed), tuned, found.design)


def _place(written: Written, field: str) -> str:
    return written.place(("axes", field))


def varied(spec: BenchmarkSpec, methods: Sequence[str], seeds: int, vary: Sequence[str]) -> Study:
    """The study of `bench run --vary FIELD=V1,V2,...`, named after its benchmark and its axes."""
    axes = []
    for text in vary:
        field, equals, values = text.partition("=")
        if not equals or not all(field.split(".")):
            raise InputError(f"--vary {text} has no field or no values; give for example --vary labels.flip=0,0.25")
        given = [read_value(value) for value in values.split(",") if value.strip()]
        axes.append(make_axis(field, given, f"--vary {text}", methods))
    name = "-".join([spec.name, *(axis.field for axis in axes)])[:64]
    return Study(name, spec, tuple(methods), seeds, tuple(axes))


def described(study: Study) -> Mapping[str, Any]:
    """The study's definition as plain data."""
    return {
        "name": study.name,
        "benchmark": study.spec.name,
        "model": study.spec.model,
        "preferences": study.spec.preferences,
        "margin": study.spec.margin,
        "design": study.design.model_dump(mode="json") if study.design else None,
        "methods": list(study.methods),
        "seeds": study.seeds,
        "per_seed": list(study.per_seed),
    }
