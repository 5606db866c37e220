"""The report of a made-up run: numbers, figures, no outside loads, and missing parts."""

import base64
import hashlib
import json
import re

import pytest

from alignment_bench.reports import drawing, figures
from alignment_bench.reports import page as page_module
from alignment_bench.reports.reading import read
from alignment_bench.reports.render import fill, render
from alignment_bench.reports.samples import samples
from alignment_bench.results.integrity import write_record
from alignment_bench.results.run_folder import Run

METHODS = ("ppo", "dpo", "orpo")
PROMPTS = [f"quick-{n}" for n in range(60)]


@pytest.fixture(scope="module")
def written(run):
    page, markdown = render([run])
    assert (page, markdown) == (run.path / "report" / "index.html", run.path / "report" / "report.md")
    return page.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written, parse):
    return parse(written[0])


def test_numbers_stand_on_the_page_with_interval_and_unit(page):
    for expected in (
        "71.0% [64.9, 77.1]",  # 0.71 with 0.061 to either side
        "88.3% answered",  # the judge's coverage
        "2 min 14 s",  # 134.2 s
        "9.3 s",
        "1.24 M",  # trained tokens
        "310 k",  # generated tokens
        "9,600",  # reward queries
        "1.77 GiB",  # 1812.4 MiB / 1024
        "32.1 TFLOP",
        "+21.0 pp [12.0, 30.0] < 0.001",  # ppo 0.71 against 0.50
        "▼ 29.0% [20.0, 38.0] p < 0.001",  # sft against ppo: 1 - 0.71, the limits 0.62 and 0.80 turned
        "−0.02",  # SFT's mean gold reward, with a real minus sign
        "4,120 rows read",
        "chosen and rejected are the same 31",
        "9f2c" * 16,
        "bench run --method ppo,dpo,orpo --seeds 3",
    ):
        assert expected in page.text, expected


def test_sections_stand_in_their_order(page):
    sections = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    results = ["verdict", "leaderboard", "comparisons", "figures", "pathology"]
    assert sections == [*results, "changes", "reward-models", "judges", "samples", "gates", "data", "provenance"]
    assert page.count("h1") == 1
    linked = [attrs["href"][1:] for tag, attrs in page.elements if tag == "a" and "class" not in attrs]
    assert linked == sections


def test_the_verdict_says_what_a_reader_asks_first(written, parse):
    verdict = parse(written[0].split('id="verdict"')[1].split("</section>")[0]).text
    places = [
        verdict.index(words)
        for words in (
            "No single method is recommended",
            "ppo and dpo are shown to beat SFT by the true reward; ppo is better than "
            "orpo; not decided: ppo against dpo, dpo against orpo.",
            "67.1% of held-out preferences",
            "ppo spends 2.9 times the FLOPs of orpo",  # 32.1 of 11.0 TFLOP
            "How sure",
            "At what cost",
            "ppo costs 3 to 14 times as much as orpo: 14.4 times the time",  # 134.2 s of 9.34 s
            "Where it breaks",
            "Chosen replies became less likely: ppo (−2.00 nats against SFT), dpo (",  # 120 steps / 60
            "The judge changes its verdict on 22% of the pairs",
            "The judge judge_model agrees with one person on 60% of the pairs that people labelled, people with each "
            "other on 80%: 20 points below its ceiling (16 to 24), so trust its verdicts less than a person's.",
            "What was not shown",
            "Not decided between ppo and dpo",
        )
    ]
    assert places == sorted(places)


def test_a_judge_beside_people_stands_on_the_page_and_in_markdown(written, parse):
    judges = parse(written[0].split('id="judges"')[1].split("</section>")[0]).text
    markdown = written[1].split("### Judges beside people")[1].split("\n## ")[0]
    for text in (judges, markdown):
        assert "On 500 pairs with 1,500 labels of people (people.jsonl)" in text
        assert "81.2% of their labels agree, Cohen's kappa 0.687, Krippendorff's alpha 0.679" in " ".join(text.split())
    figures = "94.4% 63.4% [59.0, 67.6] 73.1% [68.0, 77.0] 60.2% 80.0% −19.8 pp [−24.1, −15.5] 0.412 0.378"
    assert f"judge_model 500 {figures} 0.679" in judges and f"judge_model, chat 123 {figures} 0.555" in judges
    row = (
        "| judge_model | 500 | "
        + figures.replace(" [", "_[")
        .replace(", ", ",")
        .replace(" pp", "_pp")
        .replace(" ", " | ")
        .replace("_", " ")
        .replace(",", ", ")
        + " | 0.679 |"
    )
    assert row in markdown and "| judge_model, chat | 123 |" in markdown


def test_failed_gate_and_warning_stand_in_the_verdict(written, parse):
    verdict = parse(written[0].split('id="verdict"')[1].split("</section>")[0]).text
    assert verdict.count("67.1% of held-out preferences") == 1
    assert "Three seeds only" in verdict


def test_every_figure_is_drawn_and_described(page):
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    # 3 win rates, 3 costs, 2 rewards against KL, gold against proxy, length and 1 at equal length, 6 main curves,
    # 3 signals (displacement of chosen and rejected, length), 3 further curves (grad_norm, accuracy and margin of the
    # batches), calibration, judge
    assert len(drawings) == 3 + 3 + 2 + 1 + 2 + 6 + 3 + 3 + 1 + 1
    assert all(d["role"] == "img" and len(d["aria-label"]) > 20 for d in drawings)
    assert page.count("figcaption") == page.count("figure") == 11
    assert "ppo 71.0% (64.9 to 77.1)" in drawings[1]["aria-label"]
    # ppo beats the others but costs most; dpo beats orpo and costs more: all three are on the front
    assert drawings[0]["aria-label"].endswith("On the Pareto front: orpo, dpo, ppo")


def test_the_pareto_front_by_hand():
    """a is beaten by b in both; c costs the same as b and is worse; e is as good as d, and dearer."""
    points = {"a": (3.0, 0.5), "b": (2.0, 0.6), "c": (2.0, 0.55), "d": (5.0, 0.9), "e": (6.0, 0.9)}
    assert figures.pareto(points) == ["b", "d"]
    assert figures.pareto({**points, "sft": (0.0, 0.95)}) == ["sft"]


def test_gold_against_proxy_goes_through_every_checkpoint():
    """By the checkpoints along training where there are any, else by the end alone; nothing without a proxy."""
    looks = drawing.styles(["x"])

    def cell(mean):
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}

    points = [{"reward": {"reward.training": cell(n), "reward.gold": cell(n * (3 - n))}} for n in (1, 2, 3)]
    along = figures.gold_against_proxy({"overoptimization": {"x": {"points": points}}}, looks)
    (chart,) = along.charts
    assert chart.text == "x ends at the training reward +3.00, the true reward +0.00"
    assert "Small marks: checkpoints" in along.caption
    drawn = chart.drawing.axes[0].lines
    assert list(drawn[1].get_xdata()) == [0, 1, 2, 3] and list(drawn[1].get_ydata()) == [0, 2, 2, 0]
    row = {"x": {"difference": 0.5, "low": 0.4, "high": 0.6}}
    changes = {"reward.reward_model.training": row, "reward.reward_model": row}
    ends = figures.gold_against_proxy({"changes": changes}, looks)
    assert ends.charts[0].text.endswith("the evaluation reward model +0.50")
    assert "No checkpoints" in ends.caption
    assert figures.gold_against_proxy({"changes": {"reward.gold": row}}, looks) is None


def test_ids_are_unique_and_references_meet_one(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            if tag != "link" and name == "href" or "url(#" in (value or ""):
                assert re.search(r"#([\w.-]+)", value)[1] in ids, (tag, value)


def test_nothing_is_loaded_and_the_policy_forbids_it(page, written):
    assert not {"img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    for tag, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith("#") or (tag, attrs[name]) == ("link", "data:,")
    (policy,) = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    scripts = re.findall(r"<script>(.*?)</script>", written[0], flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(hashes) == 2
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    assert policy == (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def test_tables_are_labelled(page):
    assert page.count("caption") == page.count("table")
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")


def embedded(source):
    return json.loads(re.search(r'<script type="application/json" id="samples-data">(.*?)</script>', source)[1])


def test_samples_hold_every_prompt_and_score(written, run):
    found = embedded(written[0])
    assert [row["id"] for row in found["rows"]] == PROMPTS  # in the order of their numbers
    assert [m["name"] for m in found["methods"]] == ["sft", "ppo", "dpo", "orpo"]
    assert found["evaluators"] == ["true reward", "reward model", "judge"]
    cell = next(c for c in run.cells() if (c.method, c.seed) == ("dpo", 0))
    scores = cell.scores().set_index(["metric", "prompt_id"])["value"]
    response = found["rows"][9]["responses"][2]
    assert response["text"] == next(g for g in cell.generations() if g.prompt_id == "quick-9").response
    assert response["scores"][0] == [
        pytest.approx(scores["reward.gold", "quick-9"], rel=0.006), scores["win_rate.gold", "quick-9"],
    ]  # fmt: skip
    assert response["scores"][2] == [None, None]  # no verdict of the judge on every ninth prompt, and no rewards at all
    assert found["disagreements"][0] == {"text": "Judge and reward model disagree", "pair": [2, 1]}


def test_too_many_samples_are_picked_by_place(run):
    material = read(run)
    looks = drawing.styles(material.names)
    size = len(json.dumps(samples(material.cells, looks)["rows"]))
    found = samples(material.cells, looks, limit=size // 5 + 1)
    assert (found["every"], found["shown"], found["prompts"]) == (5, 12, 60)
    assert [row["id"] for row in found["rows"]] == PROMPTS[::5]


def test_a_method_has_one_colour_everywhere(written):
    looks = drawing.styles(METHODS)
    assert len({look.colour for look in looks.values()}) == 4
    assert [looks[m].colour for m in METHODS] == ["#0072B2", "#D55E00", "#009E73"]  # Okabe and Ito (2008)
    for chart in re.findall(r"<svg.*?</svg>", written[0], flags=re.DOTALL):
        used = {c.upper() for c in re.findall(r"#[0-9a-fA-F]{6}", chart)}
        assert used <= {look.colour.upper() for look in looks.values()}


def test_looks_stay_distinct_beyond_the_palette():
    looks = drawing.styles([f"m{n}" for n in range(35)])
    assert len({(look.colour, look.marker) for look in looks.values()}) == 36


def test_missing_and_damaged_parts_are_named_and_survived(tmp_path, make_run, parse):
    run = make_run(tmp_path)
    (run.path / "summary.json").unlink()
    (run.path / "dpo" / "seed-0" / "generations.jsonl").unlink()
    (run.path / "dpo" / "seed-1" / "scores.parquet").unlink()
    (run.path / "dpo" / "seed-1" / "scores.parquet").write_bytes(b"no parquet")
    (run.path / "ppo" / "seed-0" / "metrics.jsonl").unlink()
    text = parse(render([run])[0].read_text(encoding="utf-8")).text
    assert "not been summarized" in text
    assert "responses of dpo, seed 0 (not on disk)" in text
    assert "scores of dpo, seed 1 (cannot be read" in text
    assert "No comparisons" in text


def test_a_run_with_nothing_but_its_record(tmp_path, make_run, parse):
    run = Run(tmp_path / "run")
    write_record(run.path / "run.json", {"run_id": "bare"})
    source, markdown = (p.read_text(encoding="utf-8") for p in render([run]))
    assert "run bare" in parse(source).text
    for words in ("No verdict", "No results", "No figures", "No samples", "No gate", "Nothing about the data"):
        assert words in parse(source).text
    assert "No results" in markdown


def test_values_that_are_no_numbers_are_shown_as_missing(tmp_path, run, parse):
    found, bare = run.summary, Run(tmp_path / "bare")
    write_record(bare.path / "run.json", run.record)
    found["methods"]["dpo"]["metrics"]["win_rate.gold"] = {"mean": None, "low": None, "high": None, "n": 0}
    found["comparisons"][0] |= {"difference": None, "low": None, "high": None, "p": None, "p_adjusted": None}
    bare.write_summary(found)
    text = parse(render([bare])[0].read_text(encoding="utf-8")).text
    assert "None" not in text and "nan" not in text.lower().split()


def test_comparisons_that_make_a_page_too_large_are_left_out_and_counted(run, monkeypatch):
    """Of two scorers three with SFT each stay, and three of rows with each other go; the limit itself stays."""
    for most, shown, left in ((12, 12, 0), (11, 6, 6)):
        monkeypatch.setattr(page_module, "MOST_COMPARISONS", most)
        found = page_module.page(read(run), with_figures=False)
        html, markdown = (fill(f"report.{name}.j2", found) for name in ("html", "md"))
        said = "6 comparisons of rows with each other are left out here"
        assert (said in html, said in markdown) == (left > 0,) * 2
        assert len(re.findall(r'<th scope="row">\w+ against \w+</th>', html)) == shown
        assert len(re.findall(r"(?m)^\| \w+ against \w+ \|", markdown)) == shown
        assert len(found["matrices"]) == (0 if left else 2)


def test_markdown_holds_the_findings(written):
    markdown = written[1]
    assert markdown.startswith("# SmolLM2-135M-Instruct on tomatoes: 120 optimizer steps, 60 prompts\n")
    assert "4,087 of 4,120 rows" in markdown
    for expected in (
        "    ppo         │        ────●───    71% [65, 77]  2 min 14 s",
        "**Gate failed**",
        "+21.0 pp",
        "bench run --method ppo,dpo,orpo",
    ):
        assert expected in markdown
    tables = re.findall(r"(?m)(?:^\|.*\n)+", markdown)
    for found in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in found.splitlines()}) == 1
    assert "| ppo | 71.0% [64.9, 77.1] | 78.0% [72.8, 83.2] | 67.0% [59.6, 74.4], 88.3% answered |" in tables[0]
    assert "| orpo | 9.3 s | 11.0 TFLOP |" in markdown
    assert "| dpo | 64.0% [55.0, 73.0], p < 0.001 | 43.0% [34.0, 52.0], p = 0.214 | – |" in markdown


def test_a_run_from_before_direct_comparisons_and_audits_is_whole(tmp_path, make_run, parse):
    run = make_run(tmp_path)
    later = ("margin", "ratings", "equal_length", "changes", "ties", "reward_models", "judges", "stamps")
    older = {key: value for key, value in run.summary.items() if key not in later}
    for row in older["methods"].values():
        row["seeds"] = 1
    newer = ("basis", "seeds", "equal", "not_worse")
    older["comparisons"] = [{k: v for k, v in row.items() if k not in newer} for row in older["comparisons"]]
    older["warnings"] = ["ppo, dpo, orpo: one seed; intervals with one seed leave out the variation"]
    run.write_summary(older)
    page, markdown = (path.read_text(encoding="utf-8") for path in render([run]))
    text = parse(page).text
    assert text.count("ppo, dpo, orpo: one seed") == 1  # as a confound, and not again as a warning
    assert "No method is recommended, for each was trained once" in text and "ppo policy to be better" not in text
    assert "The comparisons in numbers" in text and "+21.0 pp [12.0, 30.0]" in text
    assert "No judge was asked" in text and "No reward model was audited." in text
    assert "| ppo against sft | +21.0 pp |" in markdown and "No judge was asked" in markdown


def test_people_on_the_responses_stand_on_the_page_and_in_markdown(tmp_path, make_run, parse):
    run = make_run(tmp_path)
    row = {
        "a": "ppo", "b": "sft", "scorer": "judge", "mean": 0.634, "low": 0.571, "high": 0.692, "n": 100, "of": 300,
        "power": 0.62, "correlation": 0.6, "narrows": True,
        "labels": {"mean": 0.61, "low": 0.51, "high": 0.7, "n": 100},
    }  # fmt: skip
    people = {
        "served": 200, "pairs": 180, "labels": 216, "skips": 3, "labellers": 2,
        "agreement": {"mean": 0.75, "low": 0.6, "high": 0.88, "n": 36},
        "alpha": {"mean": 0.51, "low": 0.2, "high": 0.75, "n": 36},
    }  # fmt: skip
    rows = [row, row | {"a": "dpo", "narrows": False}]
    run.write_summary(run.summary | {"people": people, "prediction_powered": rows})
    html, markdown = (path.read_text() for path in render([run]))
    told = parse(html.split("People on this run's responses")[1].split("</section>")[0]).text
    assert "216 labels of 180 of 200 pairs by 2 labellers, 3 skips." in told
    assert "On the 36 pairs with several labels, two of them agree with a chance of 75.0% [60.0, 88.0]" in told
    assert "ppo against sft 100 61.0% [51.0, 70.0] judge 0.620 63.4% [57.1, 69.2]" in told
    assert "dpo against sft" not in told
    part = markdown.split("### People on this run's responses")[1].split("\n## ")[0]
    assert "| ppo against sft | 100 | 61.0% [51.0, 70.0] | judge | 0.620 | 63.4% [57.1, 69.2] |" in part
    table = [line for line in part.splitlines() if line.startswith("|")]
    assert len(table) == 3 and "\n".join(table) in part
    first = parse(html.split('id="verdict"')[1].split("</section>")[0]).text
    assert "By people, ppo wins 63% against SFT (95% interval 57 to 69), from 100 responses that they compared" in first
    assert "every score here comes from a model" not in first
