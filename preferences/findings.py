"""An audit's findings, in sections of words and a table; the same sections become text and an HTML page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..analysis.statistics import Interval
from ..errors import InputError
from ..results.integrity import write_text
from .judgements import Judgements


@dataclass(frozen=True)
class Advice:
    """Something to do; the larger `weight`, roughly the share of the data it spoils, the sooner."""

    weight: float
    text: str


@dataclass
class Section:
    """One check's findings."""

    title: str
    lines: list[str]
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)


def cells(found: Interval) -> tuple[str, str, str]:
    """Value, limits and count as cells of a table."""
    if not found.n:
        return "–", "–", "0"
    limits = f"{found.low:.3f} to {found.high:.3f}" if math.isfinite(found.low) else "–"
    return f"{found.mean:.3f}", limits, str(found.n)


def told(found: Interval, percent: bool = False) -> str:
    """A value with its limits in a sentence."""
    form = (lambda value: f"{value:.1%}") if percent else (lambda value: f"{value:.3f}")
    return (
        f"{form(found.mean)} ({form(found.low)} to {form(found.high)})"
        if math.isfinite(found.low)
        else form(found.mean)
    )


def as_text(data: Judgements, sections: Sequence[Section]) -> str:
    """The findings for a terminal."""
    import pandas

    blocks = [f"Audit of {data.source}"]
    for section in sections:
        parts = [section.title.upper(), *section.lines]
        if section.rows:
            table = pandas.DataFrame(section.rows, columns=list(section.header))
            parts.append(table.to_string(index=False, max_colwidth=60))
        blocks.append("\n".join(parts))
    return "\n\n".join(blocks)


def write_page(path: Path, data: Judgements, sections: Sequence[Section]) -> None:
    """Write the findings as one self-contained HTML page, what to fix first; all text is escaped."""
    from jinja2 import Environment, PackageLoader

    folders = PackageLoader("alignment_bench.preferences")
    page = Environment(loader=folders, autoescape=True, trim_blocks=True).get_template("audit.html.j2")
    style = Path(__file__).parent.parent.joinpath("reports", "templates", "report.css").read_text(encoding="utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page.render(data=data, sections=[sections[-1], *sections[:-1]], style=style))
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); give another file with --out") from None
