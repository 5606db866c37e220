"""The page of a tuning from its record alone: picks, winners, sensitivity, trials; what is missing or damaged."""

import json
import re

import pandas
import pytest

from alignment_bench.analysis.tuning import of_method
from alignment_bench.errors import InputError
from alignment_bench.reports.tuning import find_tunings, page, render_tuning
from alignment_bench.results.integrity import write_record
from alignment_bench.results.run_folder import TUNE

RULE = {"by": "selection_reward_model", "at_most_kl": 1.0, "margin": 0.0}
CRITERIA = ["selection_reward_model", "gold"]
SPACE = {"beta": {"low": 0.01, "high": 5.0, "scale": "log", "factor": False}}


def trial(number, beta, proxy, gold, kl, budget=96, failed=None):
    return {
        "number": number, "settings": {"beta": beta}, "budget": budget, "kl": kl, "failed": failed, "intervals": {},
        "scores": {} if failed else {"selection_reward_model": proxy, "gold": gold},
        "cost": {"seconds": 2.0, "flops": 1e9},
    }  # fmt: skip


def record(label="<dpo>"):
    trials = [trial(0, 1.0, 0.625, 0.61, 0.5), trial(1, 0.02, 0.875, 0.25, 6.0), trial(2, 3.0, 0.55, 0.56, 0.1),
              trial(3, 0.3, 0, 0, None, failed="no number")]  # fmt: skip
    trials[1]["intervals"] = {"selection_reward_model": [0.75, 0.95], "gold": [None, None]}
    found = of_method(trials, RULE, CRITERIA)
    row = {"space": SPACE, "shared": trial(0, 0.5, 0.6, 0.6, 0.8), "trials": trials, **found}
    means = {"win_rate.gold": (0.63, 0.58, 0.68), "kl": (0.52, 0.5, 0.54)}
    metrics = {name: dict(zip(("mean", "low", "high"), values, strict=True)) for name, values in means.items()}
    return {
        "study": "abc", "benchmark": "made-up", "created": "2026-03-01T09:30:00+00:00", "trial_seed": 1000,
        "contract": {"trials": 4, "optimizer": "halton", "rule": RULE, "criteria": CRITERIA},
        "methods": {label: row}, "rows": {label: label}, "trials_run": "t", "run": "runs/made-up/1",
        "spent": {"trials": 4, "seconds": 8.0, "flops": 4e9, "examples": 384},
        "winners": {"sft": {"seeds": 2, "metrics": {}}, label: {"seeds": 2, "metrics": metrics},
                    f"{label}:beta=0.5": {"seeds": 2, "metrics": metrics}},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_record(tmp_path / TUNE, record())
    return tmp_path


def test_the_page_has_picks_winners_and_trials(folder):
    written = render_tuning(folder)
    assert [path.name for path in written] == ["index.html", "report.md"]
    text = (folder / "report" / "report.md").read_text()
    assert "4 trials each (halton), picked by the selection reward model with KL at most 1 nat." in text
    assert "Spent: 4 trials, 8.0 s and 4.00 GFLOP of training." in text
    for line in (
        "| Tuned, by the rule | beta 1 | 0.50 | 62.5% | 61.0% |",
        "| Shared settings of the benchmark | beta 0.5 | 0.80 | 60.0% | 60.0% |",
        "| Selection reward model alone | beta 0.02 | 6.00 | 87.5% \\[75.0%, 95.0%\\] | 25.0% |",
        "| 1 | beta 0.02 | 6.00 | 87.5% \\[75.0%, 95.0%\\] | 25.0% |",
        "| Selection reward model within the limit | beta 1 | 0.50 | 62.5% | 61.0% |",
        "| True reward, with a limit or without | beta 1 | 0.50 | 62.5% | 61.0% |",
        "| 87.5% / 62.5% / 55.0% | 100.0% | 61.0% / 56.0% / 25.0% | 66.7% |",
        "| 3 | beta 0.3 | – | – | – | no number |",
        "| tuned | 2 | 63.0% [58.0%, 68.0%] | 0.52 [0.50, 0.54] |",
        "| shared settings, not tuned | 2 |",
        "1 of 4 trials failed.",
    ):
        assert line in text, line
    assert "KL to SFT" in text and "runs/made-up/1" in text


def test_the_html_escapes_names_and_draws_every_setting(folder):
    render_tuning(folder, folder / "page", ("html",))
    html = (folder / "page" / "index.html").read_text()
    assert "<dpo>" not in html and "&lt;dpo&gt;" in html
    figures = page(record())["figures"]
    assert [figure.title for figure in figures] == [
        "What each scorer says along the KL",
        "Every trial, setting by setting",
        "Expected result by the number of trials",
    ]
    along, by_setting, expected = (figure.charts for figure in figures)
    assert "selection_reward_model: KL 0.10 55%, KL 0.50 62%, KL 6.00 88%" in along[0].text
    assert [chart.title for chart in by_setting] == ["<dpo>: selection reward model by beta (%)"]
    assert len(expected) == 2 and "25" not in expected[0].text.partition("to")[2]
    assert html.count('role="img"') == 4 and len(re.findall(r"<h3>", html)) == 3


def test_its_tables_and_drawings_are_files_too(folder):
    written = render_tuning(folder, folder / "files", ("csv", "svg", "pdf"))
    names = sorted(str(path.relative_to(folder / "files")) for path in written)
    drawn = [name for name in names if name.startswith("figures/")]
    assert [name for name in names if name not in drawn] == ["tables/trials.csv", "tables/winners.csv"]
    assert len(drawn) == 2 * 4 and all((folder / "files" / name).stat().st_size for name in drawn)
    trials = pandas.read_csv(folder / "files" / "tables" / "trials.csv")
    assert trials["method"].tolist() == ["<dpo>"] * 4 and trials["picked"].tolist() == [True, False, False, False]
    assert trials["settings.beta"].tolist() == [1.0, 0.02, 3.0, 0.3]
    assert trials["scores.gold"].dropna().tolist() == [0.61, 0.25, 0.56]
    winners = pandas.read_csv(folder / "files" / "tables" / "winners.csv").set_index(["method", "metric"])
    assert winners.loc[("<dpo>", "win_rate.gold"), ["mean", "low", "high"]].tolist() == [0.63, 0.58, 0.68]
    with pytest.raises(InputError, match="--format svgz is not known"):
        render_tuning(folder, folder / "none", ("svgz",))


def test_winners_that_have_not_run_and_halved_trials(folder):
    """Trials of a smaller budget are listed and not drawn among the others."""
    made = record("dpo")
    del made["winners"], made["run"]
    made["methods"]["dpo"]["trials"].append(trial(4, 0.9, 0.9, 0.9, 0.3, budget=32))
    write_record(folder / TUNE, made)
    render_tuning(folder)
    text = (folder / "report" / "report.md").read_text()
    assert "The winners have not been trained yet" in text and "| 4 | beta 0.9 |" in text
    assert "0.9:" not in page(made)["figures"][1].charts[0].text


def test_tunings_are_found_and_a_damaged_one_is_told(tmp_path):
    folder = tmp_path / "studies" / "made-up" / "abc"
    folder.mkdir(parents=True)
    write_record(folder / TUNE, record())
    assert find_tunings(folder) == find_tunings(tmp_path) == [folder] and find_tunings(tmp_path / "none") == []
    found = json.loads((folder / TUNE).read_text())
    found["spent"]["trials"] = 5
    (folder / TUNE).write_text(json.dumps(found))
    with pytest.raises(InputError, match="give the bench tune command again"):
        render_tuning(folder)
