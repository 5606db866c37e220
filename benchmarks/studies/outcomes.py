"""The outcomes of the shipped studies and of tunings of shipped benchmarks, as JSON with a page each.

results/published/studies/NAME.json and tunings/BENCHMARK.json (with _by_SCORER where another rule than the benchmark's
picked), pages below reports/published, and state.md there, which says of every situation how the methods stand in it.
`python -m alignment_bench.benchmarks.studies.outcomes FOLDER` takes the outcome of a finished study or tuning in;
without a folder it writes all pages anew from the JSON that lies there. The outcomes are the repository's: a wheel has
the studies and not them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...analysis.answer import answer, sentences
from ...analysis.findings import findings
from ...analysis.state import elsewhere, of_run, of_study
from ...errors import InputError, nearest
from ...reports.render import fill, make_folder
from ...reports.state import state_page
from ...reports.study import study_page
from ...reports.tuning import page
from ...results.integrity import PACKAGE, read_record, write_record, write_text
from ...results.run_folder import STUDY, TUNE
from ..definition.plugins import available, is_ours
from ..definition.proof import PUBLISHED
from ..definition.spec import load_spec, suites
from .axes import read_study
from .code import changed_since
from .file import published, read_file
from .study import verdict_of

RESULTS = PACKAGE / "results" / "published" / "studies"
PAGES = PACKAGE / "reports" / "published" / "studies"
TUNINGS = RESULTS.with_name("tunings")
TUNING_PAGES = PAGES.with_name("tunings")
STATE = PAGES.with_name("state.md")
DESIGN = "its question"  # among the parts of a study that are others today


def outcomes() -> dict[str, Path]:
    """The published outcomes by the name of their study."""
    return {path.stem: path for path in sorted(RESULTS.glob("*.json"))}


def changed(record: Mapping[str, Any]) -> list[str]:
    """The parts of a published study or tuning that are others today than when it was made: code, a study's design."""
    if "trial_seed" in record:
        return changed_since(record)
    known, name = published(), record["name"]
    design = read_file(name)[0].design if name in known else None
    now = design.model_dump(mode="json", exclude={"hours"}) if design else None
    then = {part: value for part, value in (record.get("design") or {}).items() if part != "hours"} or None
    return [*changed_since(record), *([DESIGN] if now != then else [])]


def listed() -> list[dict[str, Any]]:
    """For each study that is shipped its question, hours, answer and what has changed since (None: not made yet)."""
    found, made = [], outcomes()
    for name in published():
        design = read_file(name)[0].design
        if design is None:
            continue
        record = read_record(made[name]) if name in made else None
        since = changed(record) if record else None
        found.append(
            {
                "name": name,
                "question": design.question,
                "hours": design.hours,
                "answer": record["answer"]["answer"] if record else None,
                "changed": since,
                "state": _state(record, since or []),
            }
        )
    return found


def _state(record: Mapping[str, Any] | None, since: list[str]) -> str:
    if record is None:
        return "not made yet"
    older = f"; of older code: {', '.join(since)}" if since else ""
    return f"{record['answer']['answer']} ({record['created'][:10]}){older}"


def publish(folder: Path) -> list[Path]:
    """Take a finished study's or tuning's outcome in; the files. InputError for one that is not of what is shipped."""
    if (folder / TUNE).exists():
        record = read_record(folder / TUNE)
        if record["benchmark"] not in suites() or not record.get("winners"):
            raise InputError(f"{folder} is no finished tuning of a shipped benchmark; publish one with winners")
        return _write_tuning(make_folder(TUNINGS) / f"{_name(record)}.json", record)
    record = read_record(folder / STUDY)
    name = record["name"]
    if name not in published() or not record.get("design"):
        raise InputError(f"{folder} is of the study {name}, which is not shipped; {nearest(name, published())}")
    if record["study_id"] != read_study(name).id:
        raise InputError(
            f"{folder} is not the study {name} as it is shipped, for its axes, seeds or settings are others; make it "
            f"by bench study {name} without further options"
        )
    make_folder(RESULTS)
    return _write(RESULTS / f"{name}.json", record)


def sources() -> list[dict[str, Any]]:
    """What is published as `reports.state` has it: studies, then tunings, each with its situations."""
    found = [
        {
            "name": name,
            "link": f"{PAGES.name}/{name}.md",
            "made": record["created"][:10],
            "said": record["answer"]["sentences"][0],
            "situations": [*of_study(record)],
        }
        for name, record in ((name, read_record(path)) for name, path in outcomes().items())
    ]
    runs = [read_record(path) for path in sorted(PUBLISHED.glob("*.json"))]
    summaries = {run["run_id"]: run for run in runs if isinstance(run, dict) and "run_id" in run}
    for path in sorted(TUNINGS.glob("*.json")):
        tuning = read_record(path)
        if summary := summaries.get(Path(tuning["run"]).name):
            where = elsewhere(tuning["benchmark"], tuning["model"], tuning["preferences"])
            found.append(
                {
                    "name": path.stem,
                    "link": f"{TUNING_PAGES.name}/{path.stem}.md",
                    "made": tuning["created"][:10],
                    "said": findings(summary).recommendation,
                    "situations": [*of_run(summary, f"{where}tuned, {tuning['contract']['trials']} trials each")],
                }
            )
    return found


def write_state() -> Path:
    """The page of the state of the methods, from what is published."""
    ours = [name for name, entry in available("methods").items() if is_ours(entry.module)]
    return write_text(STATE, fill("state.md.j2", state_page(sources(), ours)))


def _name(tuning: Mapping[str, Any]) -> str:
    """The benchmark's, and where its own rule did not pick, the scorer that did."""
    rule, name = tuning["contract"]["rule"], tuning["benchmark"]
    own = load_spec(name, {field: tuning[field] for field in ("model", "preferences")}).select
    return name if (rule["by"], rule["at_most_kl"]) == (own.by, own.at_most_kl) else f"{name}_by_{rule['by']}"


def _write_tuning(path: Path, record: dict[str, Any]) -> list[Path]:
    """The outcome and its page."""
    whole = write_record(path, record)
    return [path, write_text(make_folder(TUNING_PAGES) / f"{path.stem}.md", fill("tuning.md.j2", page(whole)))]


def _write(path: Path, record: dict[str, Any]) -> list[Path]:
    """The outcome, with its answer and what else it shows as today's words have them, and its page."""
    said = {"answer": answer(record)["answer"], "sentences": sentences(record)}
    whole = write_record(path, {**record, "verdict": verdict_of(record), "answer": said})
    place = make_folder(PAGES)
    return [path, write_text(place / f"{path.stem}.md", fill("study.md.j2", study_page(whole, None)))]


if __name__ == "__main__":
    places = [Path(text) for text in sys.argv[1:]]
    written = [publish(place) for place in places]
    if not places:
        written = [_write(path, read_record(path)) for path in outcomes().values()]
        written += [_write_tuning(path, read_record(path)) for path in sorted(TUNINGS.glob("*.json"))]
    for path in (path for paths in [*written, [write_state()]] for path in paths):
        print(path)
