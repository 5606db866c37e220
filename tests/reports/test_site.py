"""A site of runs and studies: from records alone, every number linked, what changed refused, filters in a browser."""

import json
import re
from pathlib import Path

import pytest

from alignment_bench.analysis.tuning import of_method
from alignment_bench.errors import InputError
from alignment_bench.reports import site
from alignment_bench.reports.site import build, read_entries
from alignment_bench.results.integrity import digest, write_record
from alignment_bench.results.run_folder import Run
from alignment_bench.results.store import Store, write_jsonl

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 740}
HOSTILE = "\"><img src=x onerror=window.pwned=1><script>window.pwned=2</script>'"


def outcome(model, source, rates, **more):
    """A published run: methods with their win rate by the true reward."""
    contract = {"model": model, "budget": 96}
    rows = {
        name: {"seeds": 3, "metrics": {"win_rate.gold": {"mean": rate, "low": rate - 0.1, "high": rate + 0.1, "n": 9},
                                       "kl": {"mean": 1.5, "low": 1.0, "high": 2.0, "n": 9}}, "cost": {}}
        for name, rate in {"sft": 0.5, **rates}.items()
    }  # fmt: skip
    return {"run_id": digest(contract)[:12], "run_dir": "r", "benchmark": "quick", "contract": contract,
            "methods": rows, "comparisons": [], "gates": [], "warnings": [], "data": {"source": source},
            "environment": {}, "commands": ["bench run"], **more}  # fmt: skip


def study(**more):
    axis = {"values": [0, 1], "curves": [], "changes": [], "interactions": [], "pairs": []}
    return {"study_id": "s1", "name": "noise", "benchmark": "quick", "model": "small", "preferences": "pairs",
            "methods": ["dpo", "kto:beta=1"], "seeds": 3, "per_seed": [], "created": "2026-11-30T10:00:00",
            "code": {}, "axes": {"labels.flip": axis}, "frontiers": [], "variance": [], "runs": [], "warnings": [],
            "verdict": ["Nothing is compared here."], **more}  # fmt: skip


def tuning(**more):
    """Two trials of dpo, the first picked."""
    trials = [
        {"number": i, "settings": {"beta": beta}, "budget": 96, "kl": 0.5, "failed": None, "intervals": {},
         "scores": {"gold": 0.75 - i / 4}, "cost": {}} for i, beta in enumerate((1.0, 0.5))
    ]  # fmt: skip
    rule = {"by": "gold", "at_most_kl": 1.0, "margin": 0.0}
    row = {"space": {}, "shared": trials[1], "trials": trials, **of_method(trials, rule, ["gold"])}
    return {"study": "t1", "benchmark": "quick", "model": "small", "preferences": "pairs", "trial_seed": 1000,
            "created": "2026-11-30T11:00:00", "code": {"training": "abcdef0123456789"}, "methods": {"dpo": row},
            "contract": {"trials": 2, "optimizer": "halton", "rule": rule, "criteria": ["gold"]},
            "rows": {"dpo": "dpo"}, "run": "r", "winners": {},
            "spent": {"trials": 2, "seconds": 4.0, "flops": 2e9, "examples": 192}, **more}  # fmt: skip


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "published"
    write_record(folder / "first.json", outcome("small", "pairs", {"dpo": 0.625, "ppo": 0.75}))
    write_record(folder / "second.json", outcome("large", "others", {"dpo:beta=2": 0.5625, "kto": 0.25}))
    write_record(folder / "studies" / "noise.json", study())
    write_record(folder / "tunings" / "quick.json", tuning())
    (folder / "other.json").write_text(json.dumps({"pace": 1}), encoding="utf-8")  # of another kind
    return folder


def test_every_number_leads_to_its_report_and_its_contract(published, tmp_path, parse):
    index, *pages = build([published], tmp_path / "site")
    names = [str(page.relative_to(tmp_path / "site")) for page in pages]
    assert names == [
        "runs/first/index.html", "runs/second/index.html", "studies/noise/index.html", "tunings/quick/index.html",
    ]  # fmt: skip
    text = index.read_text(encoding="utf-8")
    for share in ("62.5%", "75.0%", "56.2%", "25.0%"):
        (target,) = re.findall(rf'<a href="([^"]+)">{share}</a>', text)
        name, _, anchor = target.partition("#")
        page = (index.parent / name).read_text(encoding="utf-8")
        assert share in page and f'id="{anchor}"' in page
    numbers = re.findall(r'<td class="num" data-value="[^"]+">(.*?)</td>', text)
    assert len(numbers) == 2 * 3 * 2 and all(cell.startswith("<a href=") for cell in numbers)
    for name, record in (("first", outcome("small", "", {})), ("second", outcome("large", "", {}))):
        contracts = re.findall(rf'href="(runs/{name}/index.html#contract)">{record["run_id"]}<', text)
        assert len(contracts) == 3  # a row each
        page = (index.parent / "runs" / name / "index.html").read_text(encoding="utf-8")
        assert 'id="contract"' in page and record["run_id"] in page
    assert "Nothing is compared here." in text and 'href="studies/noise/index.html"' in text
    assert 'href="tunings/quick/index.html">quick: 2 trials each (halton)</a>' in text
    assert "Picked by the true reward with KL at most 1 nat. Spent: 2 trials, 4.0 s and 2.00 GFLOP" in text
    assert "training abcdef012345" in pages[-1].read_text(encoding="utf-8")
    assert text.count("<table") == 2  # contracts differ, so no table is shared
    again = build([published], tmp_path / "again")
    assert [page.read_bytes() for page in again] == [page.read_bytes() for page in (index, *pages)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("0.625", "0.925"), "does not have the hash that it was written with"),
        (lambda text: re.sub(r',\s*"sha256": "\w+"', "", text), "does not end with its hash"),
        (lambda text: text[:-40], "it is not JSON any more"),
    ],
)
def test_a_run_that_changed_is_refused_with_one_sentence(published, tmp_path, change, told):
    path = published / "first.json"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(InputError, match=told) as error:
        build([published], tmp_path / "site")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "site").exists()


def test_a_contract_of_another_run_is_refused(published, tmp_path):
    made = outcome("small", "pairs", {"dpo": 0.6})
    made["contract"]["budget"] = 9600  # and hashed anew, as whoever changes it could
    write_record(published / "first.json", made)
    with pytest.raises(InputError, match="its contract is not that of run"):
        build([published], tmp_path / "site")


def test_a_runs_folder_is_read_and_each_file_of_its_cells_checked(tmp_path):
    made = outcome("small", "pairs", {"dpo": 0.6})
    run = Run(tmp_path / "runs" / "quick" / made["run_id"])
    named = {"dpo": {"name": "dpo", "params": {"beta": 0.5}, "description": ""}}
    parts = {name: made[name] for name in ("run_id", "benchmark", "contract", "environment", "data", "commands")}
    run.open({**parts, "created": "2026-11-30", "methods": named})
    stage = Store(tmp_path).stage("cell", {}, lambda path: write_jsonl(path / "metrics.jsonl", []))
    cell = run.place("dpo", 0, [stage])
    with pytest.raises(InputError, match="no finished run, no study and no tuning"):
        build([tmp_path], tmp_path / "site")
    run.write_summary({name: part for name, part in made.items() if name not in ("data", "environment", "commands")})
    (found,) = read_entries(tmp_path)
    assert (found.name, found.record["data"]["source"], found.summary["run_id"]) == (
        made["run_id"],
        "pairs",
        found.name,
    )
    _, page = build([tmp_path], tmp_path / "site")
    assert "beta=0.5" in page.read_text(encoding="utf-8")  # its report has what the record has beside the summary
    (cell.path / "metrics.jsonl").unlink()
    (cell.path / "metrics.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics.jsonl is damaged"):
        build([tmp_path], tmp_path / "site")


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(InputError, match="there is no folder or file"):
        build([tmp_path / "nowhere"], tmp_path / "site")
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="is not the outcome of a run, a study or a tuning"):
        build([tmp_path / "x.json"], tmp_path / "site")


def test_names_that_meet_are_told_apart_and_stay_within_the_site(published, tmp_path):
    twice = tmp_path / "first.json"
    write_record(twice, outcome("other", "pairs", {"dpo": 0.6}))
    entries = [*read_entries(published / "first.json"), *read_entries(twice)]
    assert [entry.name for entry in site._named(entries)] == ["first", "first_2"]
    assert site._named([site.Entry("../../up", {}, None)])[0].name == "-..-up"


def test_a_study_of_older_code_says_so(published, tmp_path):
    index, *_ = build([published / "studies" / "noise.json"], tmp_path / "site", lambda record: ["training", "dpo"])
    assert "Made by older code: training, dpo changed since." in index.read_text(encoding="utf-8")


def test_it_filters_in_a_browser_and_hostile_text_does_nothing(browser, published, tmp_path):
    write_record(published / "third.json", outcome(HOSTILE, HOSTILE, {"dpo": 0.6}))
    index = build([published], tmp_path / "site")[0]
    page = browser.new_context(viewport=PHONE).new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: r.url in (index.as_uri(), "data:,") or problems.append(r.url))
    page.goto(index.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.set_viewport_size(DESK)

    def shown():
        parts = page.locator(".part:visible h3").all_inner_texts()
        return parts, page.locator("tbody tr:visible th").all_inner_texts()

    assert shown()[0] == ["noise", "quick: 2 trials each (halton)", "first", "second", "third"] and len(shown()[1]) == 8
    page.select_option("[data-filter=method]", "dpo")
    assert shown() == (
        ["noise", "quick: 2 trials each (halton)", "first", "second", "third"],
        ["sft", "dpo", "sft", "dpo:beta=2", "sft", "dpo"],
    )
    assert "5 of 5 shown" in page.inner_text("[role=status]")
    page.select_option("[data-filter=model]", "large")
    assert shown() == (["second"], ["sft", "dpo:beta=2"]) and not page.is_visible("#studies")
    page.select_option("[data-filter=data]", "pairs")
    assert shown() == ([], [])
    page.select_option("[data-filter=model]", "small")
    page.select_option("[data-filter=method]", "kto")
    assert shown() == (["noise"], [])
    page.select_option("[data-filter=data]", HOSTILE)
    page.select_option("[data-filter=model]", HOSTILE)
    page.select_option("[data-filter=method]", "")
    assert shown() == (["third"], ["sft", "dpo"])
    assert problems == [] and page.evaluate("window.pwned") is None
    page.context.close()


def test_ours_is_made_of_what_is_published():
    folder = Path(__file__).parents[2] / "results" / "published"
    names = {entry.name for entry in read_entries(folder)}
    assert {"quick_5_seeds", "quick_trl", "hh_alpacaeval", "hh_harmless"} <= names
