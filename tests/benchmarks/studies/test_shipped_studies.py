"""The shipped studies: each can be made, says before what answers it, and its outcome says of which code it is."""

import json
import re
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignment_bench.analysis.answer import SIDES
from alignment_bench.analysis.axes import series_name
from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.definition import plugins
from alignment_bench.benchmarks.studies import outcomes
from alignment_bench.benchmarks.studies.axes import read_study
from alignment_bench.benchmarks.studies.code import changed_since, code_of
from alignment_bench.benchmarks.studies.design import check_design
from alignment_bench.benchmarks.studies.file import Design, published, read_file
from alignment_bench.errors import InputError
from alignment_bench.methods.pairwise import PairwiseMethod
from alignment_bench.reports.render import fill
from alignment_bench.reports.state import state_chart
from alignment_bench.reports.study import study_page
from alignment_bench.results.integrity import read_record, write_record

ROOT = Path(__file__).parents[3]
REGISTERED = cache(plugins.entry_points)  # what is installed does not change while these are read


@pytest.mark.parametrize("name", published())
def test_it_can_be_made_and_can_be_answered(name, monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", REGISTERED)
    study = read_study(name)
    runs = study.runs()  # every field, value and setting is taken
    short = all(issubclass(plugins.load("methods", item.partition(":")[0]), PairwiseMethod) for item in study.methods)
    assert study.name == name and study.seeds >= (5 if short else 3) and study.design
    assert study.design.question.endswith("?") and study.design.hours > 0
    assert all(re.search(r"\(\d{4}", source.paper) for source in study.design.papers)
    labels = [set(run.labels) for run in runs]
    assert all(labels) and len(runs) == len({run.spec.model_dump_json() for run in runs})


def test_a_study_is_found_by_its_name_and_listed():
    with pytest.raises(InputError, match="there is no study label_nose, by name or as a YAML file .*'label_noise'"):
        read_file("label_nose")
    found = CliRunner().invoke(app, ["study", "--list", "--json"])
    rows = {row["name"]: row for row in json.loads(found.stdout)}
    assert list(rows) == list(published())
    assert rows["label_noise"]["question"] == read_file("label_noise")[0].design.question
    assert all(row["state"].startswith(("yes", "no", "not ")) for row in rows.values())
    assert "needs a study" in str(CliRunner().invoke(app, ["study"]).exception)


@pytest.mark.parametrize("path", outcomes.outcomes().values(), ids=lambda path: path.stem)
def test_an_outcome_is_not_silent_about_its_code(path):
    """It may be old, and then it is named here; its record and its page must say of which code they are."""
    record = read_record(path)
    page = (outcomes.PAGES / f"{path.stem}.md").read_text(encoding="utf-8")
    assert record["name"] == path.stem and {"training", "scoring"} <= record["code"].keys()
    assert all(f"{part} {digest[:12]}" in page for part, digest in record["code"].items())
    assert record["created"][:10] in page and all(sentence[:60] in page for sentence in record["answer"]["sentences"])
    if since := outcomes.changed(record):
        warnings.warn(f"study {path.stem} is of older code: {', '.join(since)} changed since", stacklevel=1)


@pytest.mark.parametrize("path", outcomes.outcomes().values(), ids=lambda path: path.stem)
def test_a_page_has_a_table_of_each_score_that_the_question_is_about_and_of_the_kl(path):
    record = read_record(path)
    named = {said["by"] for part in SIDES.values() for said in record["design"][part]} | {"kl"}
    for axis, shown in zip(record["axes"].values(), study_page(record, None)["axes"], strict=True):
        tables = {table["metric"]: table for table in shown["tables"]}
        assert {*tables} >= named & {row["metric"] for row in axis["curves"]}
        for metric, table in tables.items():
            first = next(row for row in axis["curves"] if row["metric"] == metric)
            mean = first["points"][0]["mean"]
            cell = table["cells"][series_name(first, shown["field"], record)][shown["heads"][0]]
            read = float(cell.split()[0].replace("−", "-").rstrip("%"))
            assert read == pytest.approx(100 * mean if "%" in cell else mean, abs=0.051)
            changes = [row for row in axis["changes"] if row["metric"] == metric]
            moved = [row for row in changes if (row["low"], row["high"]) != (0, 0)]
            assert len(table["changes"]) == len(moved)
            names = [row["name"] for row in (*table["changes"], *table["interactions"])]
            assert len(names) == len({*names})  # none stands twice under one name


def test_the_ablation_of_ppo_has_a_row_a_detail_beside_ppo():
    record = read_record(outcomes.outcomes()["ppo_details"])
    shown = study_page(record, None)
    beside = shown["beside"]
    assert beside["first"] == "ppo" and [*beside["cells"]] == record["methods"][1:] and len(beside["cells"]) == 12
    assert beside["heads"][2::2] == ["KL to SFT (nats)", "Length (tokens)"] and beside["heads"][1] == "Adjusted p"
    found = next(r for r in record["beside_the_first"] if (r["a"], r["metric"]) == ("ppo:kl_estimator=k3", "kl"))
    cells = beside["cells"]["ppo:kl_estimator=k3"]
    assert cells[2].startswith(f"+{found['difference']:.2f} [") and cells[3] == f"{found['p_adjusted']:.3f}"
    assert beside["cells"]["ppo:normalize_reward=false"][1].endswith("(as named before: 0.031)")
    assert ">Differences to ppo</h2>" in fill("study.html.j2", shown)
    assert record["frontiers"] and shown["frontiers"] == []  # its rows are no strengths of one thing
    others = read_record(outcomes.outcomes()["online_offline"])
    shown = study_page(others, None)
    assert len(shown["frontiers"]) == len(others["frontiers"]) == 2
    part = shown["frontiers"][0]
    names = [(row["name"], row["metric"], row["kl"]) for row in part["rows"]]
    assert len({*names}) == len(names)  # of two scores by one scorer each row says which it is
    sentiment = study_page(read_record(outcomes.outcomes()["sentiment_frontier"]), None)
    gaps = {row["verdict"] for row in sentiment["frontiers"][0]["rows"] if row["metric"].startswith("Training reward")}
    assert gaps == {"not decided", "best_of_n has the larger gap"}  # it is ahead in what is no merit
    html = fill("study.html.j2", shown).partition("One frontier a method")[2].partition("<figure")[0]
    assert all(f"{name}</li>" in html for name in part["methods"])  # whose colour is whose
    assert record["verdict"][0].startswith("ppo:kl_estimator=k3 is above ppo in KL to SFT")


def test_the_state_of_the_methods_is_that_of_what_is_published(tmp_path, monkeypatch):
    published = outcomes.STATE.read_text(encoding="utf-8")
    monkeypatch.setattr(outcomes, "STATE", tmp_path / "state.md")
    assert outcomes.write_state().read_text(encoding="utf-8") == published
    for path in [*outcomes.outcomes().values(), outcomes.TUNINGS / "quick.json"]:
        assert f"/{path.stem}.md)" in published


def test_code_that_changed_is_named():
    spec = read_study("label_noise").spec
    code = code_of(["dpo", "ppo:beta=0.1", "dpo:beta=1"], spec)
    assert list(code) == ["training", "scoring", "world", "dpo", "ppo"] and len(set(code.values())) == 5
    assert changed_since({"code": code}) == []
    assert changed_since({"code": {**code, "training": "0", "ppo": "1", "gone": "2"}}) == ["training", "ppo", "gone"]
    other = spec.model_copy(update={"preferences": "pairs.jsonl"})
    assert list(code_of(["dpo"], other)) == ["training", "scoring", "dpo"]


def test_an_outcome_is_taken_in_with_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(outcomes, "PAGES", tmp_path / "reports")
    study = read_study("label_noise")
    flip = {"values": [0, 0.1, 0.25, 0.4], "curves": [], "changes": [], "interactions": [], "pairs": []}
    record = {
        "study_id": study.id, "name": "label_noise", "benchmark": "quick", "model": "m", "preferences": "builtin/world",
        "margin": 0.05, "design": study.design.model_dump(mode="json"), "methods": list(study.methods), "seeds": 3,
        "per_seed": [], "created": "2026-11-30T17:00:00+00:00", "code": code_of(study.methods, study.spec),
        "axes": {"labels.flip": flip}, "beside_the_first": [], "frontiers": [], "variance": [], "runs": [],
        "warnings": [], "verdict": ["Nothing."],
    }  # fmt: skip
    write_record(tmp_path / "study.json", record)
    kept, page = outcomes.publish(tmp_path)
    assert read_record(kept)["answer"]["answer"] == "not decided"
    text = page.read_text(encoding="utf-8")
    assert study.design.question in text and "Chowdhury" in text and record["code"]["dpo"][:12] in text
    assert "Yes was to be: robust" in text and "not measured" in text
    test_an_outcome_is_not_silent_about_its_code(kept)
    (row,) = [row for row in outcomes.listed() if row["answer"]]
    assert row["state"] == "not decided (2026-11-30)" and row["changed"] == []
    old = {**record, "code": {**record["code"], "scoring": "0" * 64}, "design": {**record["design"], "question": "?"}}
    assert outcomes.changed(old) == ["scoring", outcomes.DESIGN]
    assert outcomes.changed({**record, "design": {**record["design"], "hours": 99.0}}) == []  # measured since
    with pytest.warns(UserWarning, match="label_noise is of older code: scoring"):
        outcomes._write(kept, {**old, "design": record["design"]})
        test_an_outcome_is_not_silent_about_its_code(kept)
    page.write_text(text, encoding="utf-8")  # a page of the code before: silent about its own
    with pytest.raises(AssertionError):
        test_an_outcome_is_not_silent_about_its_code(kept)
    write_record(tmp_path / "study.json", {**record, "study_id": "abc"})
    with pytest.raises(InputError, match="is not the study label_noise as it is shipped, for its axes"):
        outcomes.publish(tmp_path)
    write_record(tmp_path / "study.json", {**record, "name": "mine"})
    with pytest.raises(InputError, match="is of the study mine, which is not shipped"):
        outcomes.publish(tmp_path)


@pytest.mark.parametrize("path", sorted(outcomes.TUNINGS.glob("*.json")), ids=lambda path: path.stem)
def test_a_published_tuning_is_not_silent_about_its_code(path):
    record = read_record(path)
    page = (outcomes.TUNING_PAGES / f"{path.stem}.md").read_text(encoding="utf-8")
    assert path.stem.startswith(record["benchmark"]) and record["winners"]
    assert all(f"{part} {digest[:12]}" in page for part, digest in record["code"].items())
    if since := outcomes.changed(record):
        warnings.warn(f"tuning {path.stem} is of older code: {', '.join(since)} changed since", stacklevel=1)


def test_a_tuning_is_taken_in_with_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "TUNINGS", tmp_path / "tunings")
    monkeypatch.setattr(outcomes, "TUNING_PAGES", tmp_path / "pages")
    code = code_of(["dpo"], read_study("label_noise").spec)
    rule = {"by": "gold", "at_most_kl": None, "margin": 0.0}
    winners = {"dpo": {"seeds": 2, "metrics": {"win_rate.gold": {"mean": 0.625, "low": 0.5, "high": 0.75}}}}
    record = {
        "study": "abc", "benchmark": "quick", "model": "builtin/base_model", "preferences": "builtin/world",
        "created": "2026-11-30T17:00:00+00:00", "trial_seed": 1000, "code": code,
        "contract": {"trials": 2, "optimizer": "halton", "rule": rule, "criteria": ["gold"]}, "methods": {}, "rows": {},
        "spent": {"trials": 2, "seconds": 1.0, "flops": 1e9, "examples": 2}, "run": "r", "winners": winners,
    }  # fmt: skip
    write_record(tmp_path / "tune.json", record)
    kept, page = outcomes.publish(tmp_path)
    assert (kept.name, page.name) == ("quick_by_gold.json", "quick_by_gold.md")
    assert "62.5%" in page.read_text(encoding="utf-8")
    test_a_published_tuning_is_not_silent_about_its_code(kept)
    assert outcomes.changed({**read_record(kept), "code": {**code, "dpo": "0"}}) == ["dpo"]
    rule = {"by": "selection_reward_model", "at_most_kl": 1.0, "margin": 0.0}  # quick's own
    write_record(tmp_path / "tune.json", {**record, "contract": {**record["contract"], "rule": rule}})
    assert outcomes.publish(tmp_path)[0].name == "quick.json"
    yours = {"benchmark": "hh", "model": "org/some", "preferences": "mine.jsonl"}  # hh itself names neither
    write_record(tmp_path / "tune.json", {**record, **yours, "contract": {**record["contract"], "rule": rule}})
    assert outcomes.publish(tmp_path)[0].name == "hh.json"
    for other in ({"benchmark": "mine"}, {"winners": {}}):
        write_record(tmp_path / "tune.json", {**record, **other})
        with pytest.raises(InputError, match="no finished tuning of a shipped benchmark"):
            outcomes.publish(tmp_path)


AXES = {"labels.flip": ([0, 0.25], None), "dpo.beta": ([0.1, 0.5], "dpo")}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"method": "dpi", "along": "labels.flip"}, "dpi is not compared here; did you mean 'dpo'"),
        ({"method": "ppo", "along": "labels.flop"}, "labels.flop is no axis of this study; did you mean 'labels.flip'"),
        ({"method": "ppo", "along": "labels.flip", "at": {"rows": 3}}, "rows is no axis of this study"),
        ({"method": "dpo", "along": "labels.flip", "at": {"dpo.beta": 2}}, "2 is not among the values of dpo.beta"),
        ({"method": "ppo"}, "a statement needs another method"),
        ({"method": "ppo", "than": "ppo", "at": {"labels.flip": 0}}, "a statement needs another method"),
        ({"method": "ppo", "along": "labels.flip", "equal_kl": True}, "equal_kl compares two methods"),
        ({"method": "ppo", "along": "labels.flip", "verdict": "equal", "by": "kl"}, "within a margin of win rates"),
        ({"method": "ppo", "than": "dpo", "along": "labels.flip"}, "dpo.beta is an axis of one method alone"),
        ({"method": "ppo", "than": "dpo", "equal_kl": True}, "at which value of labels.flip is left open"),
        ({"method": "dpo", "along": "labels.flip"}, "at which value of dpo.beta is left open"),
    ],
)
def test_a_statement_that_no_record_can_show_is_refused(fields, told):
    good = {"method": "ppo", "along": "labels.flip", "verdict": "lower"}
    shared = {"question": "?", "tuning": "", "papers": [{"paper": "", "shape": ""}], "hours": 1, "no_if": [good]}
    check_design(Design(**shared, yes_if=[good]), ["ppo", "dpo"], AXES, "noise")
    with pytest.raises(InputError, match="study noise: design.yes_if.0: ") as error:
        check_design(Design(**shared, yes_if=[{"verdict": "lower", **fields}]), ["ppo", "dpo"], AXES, "noise")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_statement_of_methods_that_no_axis_concerns_is_refused():
    """Without the check the study would be made, and its answer find no row."""

    def check(methods, axes, **fields):
        said = {"method": "ppo", "than": "orpo", "verdict": "higher", **fields}
        shared = {"question": "?", "tuning": "", "papers": [{"paper": "", "shape": ""}], "hours": 1}
        check_design(Design(**shared, yes_if=[said], no_if=[said]), methods, axes, "x")

    of_dpo, budgets = {"dpo.beta": ([0.1, 0.5], "dpo")}, {"budget": ([8, 9], None)}
    with pytest.raises(InputError, match="ppo and orpo are compared along no axis in this study"):
        check(["ppo", "orpo", "dpo"], of_dpo)
    with pytest.raises(InputError, match="dpo.beta does not tell what is compared here"):
        check(["ppo", "orpo", "dpo"], of_dpo, at={"dpo.beta": 0.1})
    with pytest.raises(InputError, match="budget does not tell what is compared here"):
        check(["ppo", "orpo"], budgets, at={"budget": 8}, equal_kl=True)
    with pytest.raises(InputError, match="ppo and orpo are compared beside dpo alone in this study"):
        check(["dpo", "ppo", "orpo"], {})
    check(["ppo", "orpo", "dpo"], of_dpo, equal_kl=True)
    check(["ppo", "orpo"], budgets, equal_kl=True)
    check(["orpo", "ppo"], {})


def test_the_picture_of_the_readme_is_that_of_what_is_published():
    """Every name and number of it; drawn by `python docs/picture.py`."""
    drawn = re.findall(r"<text[^>]*>([^<]+)</text>", (ROOT / "docs" / "assets" / "state.svg").read_text("utf-8"))
    chart = state_chart(outcomes.sources())
    axes = chart.drawing.axes[0]
    labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts]
    wanted = Counter(line for text in labels for line in text.get_text().splitlines())
    assert Counter(drawn) - wanted == Counter([chart.title]) and not wanted - Counter(drawn)


def test_a_study_that_names_no_code_may_be_of_any():
    """Of a version before the hashes were kept; `bench site` shows such ones too."""
    assert outcomes.changed({"name": "mine"}) == ["perhaps all"]
    assert outcomes.changed({"name": "label_noise"}) == ["perhaps all", "its question"]
