"""The report of a made-up run: numbers, figures, inert text, no outside loads, and missing parts."""

import itertools
import random
import re
from html.parser import HTMLParser

import pandas
import pytest

from alignment_bench.reports import figures
from alignment_bench.reports.render import render
from alignment_bench.results.integrity import write_record
from alignment_bench.results.records import Generation
from alignment_bench.results.store import Run, Store, write_json, write_jsonl

METHODS = {"ppo": 0.71, "dpo": 0.64, "orpo": 0.58}
PROMPTS = [f"quick-{n}" for n in range(60)]


def interval(mean, half, n=180, **more):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n, **more}


def cell_files(folder, method, seed, words):
    """What one cell leaves on disk, as the harness writes it."""
    rng = random.Random(f"{method}{seed}")
    gain = METHODS.get(method, 0.5) - 0.5
    generations, scores = [], []
    for number, prompt_id in enumerate(PROMPTS):
        kl = 0.0 if method == "sft" else rng.gauss(30 * gain, 1)
        conversation = ({"role": "user", "content": f"{words}How do I grow tomatoes in pot {number}?"},)
        text = f"{words}Give them six hours of sun and a deep pot, and water when the soil feels dry. " * rng.randint(
            1, 2
        )
        generations.append(Generation(prompt_id, conversation, text, rng.randint(18, 64), rng.random() < 0.95, kl))
        gold, proxy = rng.gauss(gain * 4, 0.6), rng.gauss(gain * 6, 0.8)
        scores += [("reward.gold", prompt_id, gold), ("reward.reward_model", prompt_id, proxy), ("kl", prompt_id, kl)]
        if method != "sft":
            scores += [(f"win_rate.{e}", prompt_id, float(rng.random() < 0.5 + gain)) for e in ("gold", "reward_model")]
            scores.append(("win_rate.judge", prompt_id, None if number % 9 == 0 else rng.choice([0.0, 0.5, 1.0])))
    write_jsonl(folder / "generations.jsonl", generations)
    pandas.DataFrame(scores, columns=["metric", "prompt_id", "value"]).to_parquet(folder / "scores.parquet")
    rows = []
    for step in range(1, 121 if method != "sft" else 0):
        row = {"step": step, "examples": 8 * step, "seconds": step / 9, "lr": 1e-4, "grad_norm": rng.uniform(0.5, 2)}
        row["loss"] = 0.69 - gain * step / 120 + rng.gauss(0, 0.03)
        if method == "ppo":
            row |= {"reward": gain * step / 30 + rng.gauss(0, 0.1), "kl": step / 20, "entropy": 2.2 - step / 200}
        else:
            row |= {"accuracy": min(1, 0.5 + gain * step / 60 + rng.gauss(0, 0.05)), "margin": gain * step / 10}
            row |= {"chosen_logps": -20 - step / 40, "rejected_logps": -22 - step / 15}
        rows.append(row)
    if rows:
        write_jsonl(folder / "metrics.jsonl", rows)


def record(methods):
    return {
        "run_id": "20260301-2c9d41",
        "benchmark": "quick",
        "created": "2026-03-01T09:30:00+00:00",
        "commands": ["bench run --method ppo,dpo,orpo --seeds 3"],
        "contract": {
            "base": {"path": "built in", "weights": "9f2c" * 16},
            "tokenizer": "51ab" * 16,
            "template": "77d0" * 16,
            "data": {"pairs": "e01f" * 16, "order": "seeded shuffle"},
            "budget": {"examples": 960},
            "seeds": [0, 1, 2],
            "generation": {"max_new_tokens": 64, "temperature": 1.0},
        },
        "environment": {
            "packages": {"alignment-bench": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "machine": "x86_64, 2 cores, 8 GiB",
            "device": "cpu",
            "python": "3.12.4",
        },
        "data": {
            "source": "quick (built in, seed 0)",
            "read": 4120,
            "dropped": {"chosen and rejected are the same": 31, "empty prompt": 2},
            "splits": {
                "sft": {"pairs": 800, "prompts": 800},
                "train_reward": {"pairs": 1600, "prompts": 800},
                "eval_reward": {"pairs": 1600, "prompts": 800},
                "held_out": {"pairs": 87, "prompts": 60},
            },
            "dropped_tokens": {"prompt longer than the context": 4},
            "notes": ["Labels are drawn from a Bradley-Terry model over the true reward; 12% are flipped on average."],
        },
        "methods": {
            label: {"name": "dpo", "params": {"beta": 0.1, "lr": 5e-4}, "description": "Preference optimization."}
            for label in methods
        },
    }


def summary(methods):
    rows = {"sft": {"seeds": 3, "metrics": {}, "cost": {}}}
    rows["sft"]["metrics"] = {
        "reward.gold": interval(-0.02, 0.08), "reward.reward_model": interval(0.05, 0.1),
        "kl": {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 180},
        "length": interval(41.2, 1.3), "eos_rate": interval(0.95, 0.02),
    }  # fmt: skip
    for place, (label, rate) in enumerate(methods.items()):
        gain = rate - 0.5
        rows[label] = {
            "seeds": 3,
            "metrics": {
                "win_rate.gold": interval(rate, 0.061),
                "win_rate.reward_model": interval(rate + 0.07, 0.052),
                "win_rate.judge": interval(rate - 0.04, 0.074, coverage=0.883),
                "reward.gold": interval(gain * 4, 0.13),
                "reward.reward_model": interval(gain * 6, 0.16),
                "kl": interval(30 * gain, 0.31),
                "length": interval(44.5 + place, 1.6),
                "eos_rate": interval(0.948, 0.018),
                "gold.honest": interval(0.31, 0.05),
            },
            "cost": {
                "seconds": (134.2, 41.7, 9.34)[place % 3], "flops": (3.21e13, 1.4e13, 1.1e13)[place % 3],
                "trained_tokens": (1_240_000, 412_345, 412_345)[place % 3],
                "generated_tokens": (310_400, 0, 0)[place % 3],
                "reward_queries": (9_600, 0, 0)[place % 3], "peak_memory_mb": (1_812.4, 940.2, 871.0)[place % 3],
                "optimizer_steps": 120, "examples": 960,
            },
        }  # fmt: skip
    pairs = [(label, "sft") for label in methods] + list(itertools.combinations(methods, 2))
    comparisons = []
    for metric in ("win_rate.gold", "win_rate.reward_model"):
        for a, b in pairs:
            gap = methods[a] - methods.get(b, 0.5)
            clear = gap > 0.1
            comparisons.append(
                {
                    "a": a,
                    "b": b,
                    "metric": metric,
                    "difference": gap,
                    "low": gap - 0.09,
                    "high": gap + 0.09,
                    "p": 0.0001 if clear else 0.09,
                    "p_adjusted": 0.0004 if clear else 0.214,
                    "verdict": f"{a} is better" if clear else "no significant difference",
                }  # fmt: skip
            )
    return {
        "run_id": "20260301-2c9d41",
        "run_dir": "results/runs/quick/20260301-2c9d41",
        "benchmark": "quick",
        "contract": "ab" * 32,
        "methods": rows,
        "comparisons": comparisons,
        "gates": [
            {
                "name": "SFT held-out loss", "value": 1.482, "low": 1.44, "high": 1.52, "threshold": 3.91,
                "passed": True,
                "text": "SFT reaches 1.482 nats per token on held-out responses, the base model 3.910",
            },
            {
                "name": "reward model accuracy", "value": 0.671, "low": 0.641, "high": 0.699, "threshold": 0.7,
                "passed": False,
                "text": "The evaluation reward model agrees with 67.1% of held-out preferences, 64.1% to 69.9%",
            },
        ],
        "warnings": ["Three seeds only: intervals over seeds are wide."],
    }  # fmt: skip


def fake_run(folder, *, methods=METHODS, words=""):
    """A finished run as `bench run` leaves it; `words` goes in front of every prompt and response."""
    run = Run(folder / "runs" / "quick" / "20260301-2c9d41")
    run.open(record(methods))
    store = Store(folder)
    for method, seed in itertools.product(["sft", *methods], range(3)):
        made = store.stage(
            "cell",
            {"method": method, "seed": seed},
            lambda path, method=method, seed=seed: cell_files(path, method, seed, words),
        )
        run.place(method, seed, [made])
    run.write_summary(summary(methods))
    return run


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and text by the element around it."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def written(run):
    page, markdown = render([run])
    assert (page, markdown) == (run.path / "report" / "index.html", run.path / "report" / "report.md")
    return page.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written[0])


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
        "< 0.001",
        "−0.02",  # SFT's mean gold reward, with a real minus sign
        "4,120 rows read",
        "chosen and rejected are the same 31",
        "9f2c" * 16,
        "bench run --method ppo,dpo,orpo --seeds 3",
    ):
        assert expected in page.text, expected


def test_sections_stand_in_their_order(page):
    sections = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    audits = ["changes", "reward-models", "judges"]
    rest = ["samples", "gates", "data", "contract"]
    assert sections == ["verdict", "results", "figures", "comparisons", *audits, *rest]
    assert page.count("h1") == 1


def test_failed_gate_and_warning_stand_in_the_verdict(written):
    verdict = Page(written[0].split('id="verdict"')[1].split("</section>")[0]).text
    assert verdict.count("67.1% of held-out preferences") == 1
    assert "Three seeds only" in verdict


def test_every_figure_is_drawn_and_described(page):
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    # 3 win rates, 2 rewards against KL, 8 main curves, 1 further curve (grad_norm), 2 costs
    assert len(drawings) == 16
    assert all(d["role"] == "img" and len(d["aria-label"]) > 20 for d in drawings)
    assert page.count("figcaption") == page.count("figure") == 5
    assert "ppo 71.0% (64.9 to 77.1)" in drawings[0]["aria-label"]


def test_ids_are_unique_and_references_meet_one(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            if name == "href" or "url(#" in (value or ""):
                assert re.search(r"#([\w.-]+)", value)[1] in ids, (tag, value)


def test_nothing_is_loaded_and_the_policy_forbids_it(page):
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    for _, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith("#")
    policies = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_tables_are_labelled(page):
    assert page.count("caption") == page.count("table")
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")


def test_samples_are_picked_by_place(written):
    shown = re.findall(r'<summary><span class="muted mono">(quick-\d+)</span>', written[0])
    assert shown == [f"quick-{n}" for n in range(0, 60, 5)]  # 60 prompts, 12 shown: every 5th, 10 after 5
    assert "every 5th in the order of their ids" in Page(written[0]).text
    assert written[0].count('<details class="sample" open>') == 3


def test_a_method_has_one_colour_everywhere(written):
    looks = figures.styles(METHODS)
    assert len({look.colour for look in looks.values()}) == 4
    assert [looks[m].colour for m in METHODS] == ["#0072B2", "#D55E00", "#009E73"]  # Okabe and Ito (2008)
    for panel in re.findall(r"<svg.*?</svg>", written[0], flags=re.DOTALL):
        used = {c.upper() for c in re.findall(r"#[0-9a-fA-F]{6}", panel)}
        assert used <= {look.colour.upper() for look in looks.values()}


def test_looks_stay_distinct_beyond_the_palette():
    looks = figures.styles([f"m{n}" for n in range(35)])
    assert len({(look.colour, look.marker) for look in looks.values()}) == 36


PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'><a href='javascript:alert(1)'>x</a>",
    "</title></style></textarea><script>alert(2)</script>",
    "]]><script>alert(3)</script><!--",
    "--><script>alert(4)</script>",
    "{{ 7 * 7 }} {% raw %} $\\alpha$",
]


def test_text_from_data_is_inert(tmp_path, page):
    everything = " ".join(PAYLOADS)
    labels = [payload.replace("/", "") for payload in PAYLOADS]  # a method's label is also a folder's name
    run = fake_run(
        tmp_path, methods={labels[0]: 0.7, labels[2]: 0.6, labels[6]: 0.55, labels[7]: 0.52}, words=everything
    )
    spoiled = run.record
    spoiled |= {"run_id": everything, "benchmark": everything, "created": everything, "commands": [everything]}
    spoiled["data"] |= {"notes": [everything], "source": everything, "dropped": {everything: 1}}
    spoiled["contract"][everything] = everything
    spoiled["methods"][labels[0]] = {"name": everything, "params": {everything: everything}, "description": everything}
    write_record(run.path / "run.json", spoiled)
    found = run.summary
    found["warnings"] = [everything]
    found["gates"][0] |= {"name": everything, "text": everything, "passed": False}
    found["comparisons"][0]["verdict"] = everything
    found["methods"][labels[2]]["metrics"][f"win_rate.{everything}"] = interval(0.6, 0.1)
    run.write_summary(found)
    source, markdown = (p.read_text(encoding="utf-8") for p in render([run]))
    attacked = Page(source)
    assert {tag for tag, _ in attacked.elements} <= {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attrs in attacked.elements for name in attrs)
    assert not any("javascript:" in (attrs.get("href") or "") for _, attrs in attacked.elements)
    for payload in PAYLOADS:  # it is all there, as text: 12 prompts, each with 5 responses
        assert attacked.text.count(payload) > 60
    prose = [line for line in markdown.splitlines() if not line.startswith("    ")]  # the rest is a block of code
    assert not re.search(r"<[a-z/!]", "\n".join(prose))


def test_missing_and_damaged_parts_are_named_and_survived(tmp_path):
    run = fake_run(tmp_path)
    (run.path / "summary.json").unlink()
    (run.path / "dpo" / "seed-0" / "generations.jsonl").unlink()
    (run.path / "dpo" / "seed-1" / "scores.parquet").unlink()
    (run.path / "dpo" / "seed-1" / "scores.parquet").write_bytes(b"no parquet")
    (run.path / "ppo" / "seed-0" / "metrics.jsonl").unlink()
    text = Page(render([run])[0].read_text(encoding="utf-8")).text
    assert "not been summarized" in text
    assert "responses of dpo, seed 0 (not on disk)" in text
    assert "scores of dpo, seed 1 (cannot be read" in text
    assert "No comparisons" in text


def test_a_run_with_nothing_but_its_record(tmp_path):
    run = Run(tmp_path / "run")
    write_json(run.path / "run.json", {"run_id": "bare"})
    source, markdown = (p.read_text(encoding="utf-8") for p in render([run]))
    assert "run bare" in Page(source).text
    for words in ("No verdict", "No results", "No figures", "No samples", "No gate", "Nothing about the data"):
        assert words in Page(source).text
    assert "No results" in markdown


def test_values_that_are_no_numbers_are_shown_as_missing(tmp_path):
    run = fake_run(tmp_path)
    found = run.summary
    found["methods"]["dpo"]["metrics"]["win_rate.gold"] = {"mean": None, "low": None, "high": None, "n": 0}
    found["comparisons"][0] |= {"difference": None, "low": None, "high": None, "p": None, "p_adjusted": None}
    run.write_summary(found)
    text = Page(render([run])[0].read_text(encoding="utf-8")).text
    assert "None" not in text and "nan" not in text.lower().split()


def test_markdown_holds_the_findings(written):
    markdown = written[1]
    for expected in ("# Alignment methods on quick", "**Gate failed**", "+21.0 pp", "bench run --method ppo,dpo,orpo"):
        assert expected in markdown
    tables = re.findall(r"(?m)(?:^\|.*\n)+", markdown)
    assert len(tables) == 4  # metrics, costs, and comparisons on two metrics
    for found in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in found.splitlines()}) == 1
    assert "| ppo | 3 | 71.0% [64.9, 77.1] | 78.0% [72.8, 83.2] |" in tables[0]
    assert "| orpo | 9.3 s | 11.0 TFLOP | 412 k | 0 | 0 | 871 MiB |" in tables[1]


def test_several_runs_go_into_folders_of_their_own(tmp_path):
    runs = [Run(tmp_path / name) for name in ("a", "b", "c")]
    for run, run_id in zip(runs, ("one", "../two", "one"), strict=True):
        write_json(run.path / "run.json", {"run_id": run_id})
    written = render(runs, tmp_path / "out")
    assert len({p.parent for p in written}) == 3
    assert all(p.exists() and p.parent.parent == tmp_path / "out" for p in written)
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert render(runs[:1], tmp_path / "single")[0] == tmp_path / "single" / "index.html"
