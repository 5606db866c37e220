"""A study as it is written: a YAML file, its question and what answers it; and the studies that are shipped."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ...errors import InputError, nearest
from ..definition.plugins import checked
from ..definition.spec import Part
from ..definition.yaml_file import Written, read_benchmark

SPLIT = "split"
# What `per_seed` may name: the stages whose seeds are the same for all seeds of a run, and the fields that hold them.
SEED_FIELDS = {"sft": "sft.seed", "reward_model": "reward_model.seed", SPLIT: "split_seed"}
PUBLISHED = Path(__file__).with_name("published")


class Statement(Part):
    """Something that a study may show, in terms of its record: a change along an axis, or one method beside another."""

    method: str
    """The method of which it is said, as it stands under methods."""
    verdict: Literal["higher", "lower", "equal"]
    """What is to be shown: a difference of this sign, or a 95% interval within the benchmark's margin of 0."""
    than: str | None = None
    """The method beside which; null says it of the method alone, along an axis."""
    along: str | None = None
    """The axis from whose first to last value the method (or its difference from the other) changes."""
    at: dict[str, Any] = {}
    """The values of the axes at which."""
    equal_kl: bool = False
    """The two are compared at equal KL to SFT."""
    by: str = "win_rate.gold"
    """The score."""


class Source(Part):
    """A paper whose shape a study looks for."""

    paper: str
    """Authors, year and number."""
    shape: str
    """The paper's finding, with its own numbers."""


class Design(Part):
    """A study's question and its answers, written before it is made."""

    question: str
    """A question that is answered by yes or no."""
    yes_if: list[Statement] = Field(min_length=1)
    """Statements that must all be shown for the answer yes."""
    no_if: list[Statement] = Field(min_length=1)
    """Statements of which one that is shown makes the answer no."""
    tuning: str
    """How the settings of the methods were chosen."""
    papers: list[Source] = Field(min_length=1)
    """The papers whose shape is looked for."""
    hours: float = Field(gt=0)
    """Hours on two cores where nothing is on disk, by the costs of plans, which know nothing of judging."""


class StudyFile(Part):
    """A study as it is written in YAML."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Letters, digits, dots, dashes; the folder of its results."""
    benchmark: str = "quick"
    """A shipped benchmark or a YAML file."""
    methods: list[str] = Field(min_length=1)
    """Methods, each NAME or NAME:FIELD=VALUE:..."""
    seeds: int = Field(default=1, gt=0)
    """Training runs of each method in each run."""
    settings: dict[str, Any] = {}
    """Fields of the benchmark that are the same in all runs, dotted."""
    axes: dict[str, list[Any]] = {}
    """Values by field; all are crossed."""
    per_seed: list[Literal[*SEED_FIELDS]] = []  # type: ignore[valid-type]  # the names stand in one place
    """Stages that get another seed as well: from worlds in which they vary, the variance is split by source."""
    tuned: str | None = None
    """Folder of a `bench tune` of the same methods: with the axis budget, what its winners showed is told beside."""
    design: Design | None = None
    """The question and what answers it; null for a study that only shows."""


def published() -> dict[str, Path]:
    """The studies that are shipped, by name."""
    return {path.stem: path for path in sorted(PUBLISHED.glob("*.yaml"))}


def read_file(path: str) -> tuple[StudyFile, Written]:
    """A study as it is written, by the name of one that is shipped or as a YAML file, and where its fields stand."""
    known = published()
    if path not in known and not Path(path).is_file():
        raise InputError(
            f"there is no study {path}, by name or as a YAML file with name, methods and axes; {nearest(path, known)}"
        )
    written = read_benchmark(path, known)
    return checked(StudyFile, written.fields, written.place), written
