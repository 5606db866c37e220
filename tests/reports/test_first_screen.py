"""Every number of the first screen, recomputed from a run's raw files by code that shares nothing with analysis/.

The formulas are written out here anew: Wilson's interval with the variance of a two-way table, its inversion for p,
Holm's steps, a Bradley-Terry fit by Newton's method, means of costs.
"""

import json
import math
import re
from collections import defaultdict

import numpy as np
import pandas
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from alignment_bench.analysis.findings import findings
from alignment_bench.analysis.summary import summarize
from alignment_bench.reports.page import page
from alignment_bench.reports.reading import Material

METHODS, PROMPTS, MARGIN = ("a", "b", "c"), 90, 0.05


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The raw files of three methods with three seeds: a parquet of scores and a JSON of costs a cell."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(8)
    shared = rng.normal(0, 0.7, PROMPTS)
    sft = shared + rng.normal(0, 0.7, PROMPTS)
    for name, mean in zip(("sft", *METHODS), (0.0, 1.3, 0.5, 0.4), strict=True):
        for seed in range(3):
            quality = mean + rng.normal(0, 0.05) + shared + rng.normal(0, 0.7, PROMPTS) if name != "sft" else sft
            rows = [("reward.gold", f"p{i}", q) for i, q in enumerate(quality)]
            if name != "sft":
                rows += [("win_rate.gold", f"p{i}", float(q > sft[i])) for i, q in enumerate(quality)]
                seen = quality + rng.normal(0, 1, PROMPTS)
                rows += [("win_rate.judge", f"p{i}", float(q > sft[i])) for i, q in enumerate(seen)]
                cost = {"seconds": 10.0 * (1 + METHODS.index(name)) + seed, "flops": 1e9 * (1 + METHODS.index(name))}
                (folder / f"{name}-{seed}.json").write_text(json.dumps(cost))
            frame = pandas.DataFrame(rows, columns=["metric", "prompt_id", "value"])
            frame.to_parquet(folder / f"{name}-{seed}.parquet")
    return folder


def screen(folder):
    """The first screen as people see it."""
    frames, costs = [], defaultdict(list)
    for path in sorted(folder.glob("*.parquet")):
        name, _, seed = path.stem.partition("-")
        frames.append(pandas.read_parquet(path).assign(method=name, seed=int(seed)))
        if path.with_suffix(".json").exists():
            costs[name].append(json.loads(path.with_suffix(".json").read_text()))
    summary = summarize(
        run_id="r", run_dir="d", benchmark="b", contract={}, scores=pandas.concat(frames), costs=costs, gates=[],
        warnings=[],
    )  # fmt: skip
    return findings(summary)


def values(folder, name, metric):
    """[seeds, prompts] as the files have them."""
    rows = []
    for seed in range(3):
        frame = pandas.read_parquet(folder / f"{name}-{seed}.parquet")
        rows.append(frame[frame["metric"] == metric].sort_values("prompt_id")["value"].to_numpy())
    return np.array(rows)


def squared_half_width(y, alpha):
    """q^2 V of the two-way table: V = seeds' part + prompts' part, q^4 = tp^4 + (ts^4 - tp^4) share^2.

    Never below that of values of which no two have a seed or prompt in common.
    """
    seeds, prompts = y.shape
    mean, by_seed, by_prompt = y.mean(), y.mean(1), y.mean(0)
    ms_seed = prompts * ((by_seed - mean) ** 2).sum() / (seeds - 1)
    ms_prompt = seeds * ((by_prompt - mean) ** 2).sum() / (prompts - 1)
    rest = ((y - by_seed[:, None] - by_prompt[None] + mean) ** 2).sum() / ((seeds - 1) * (prompts - 1))
    part_seed, part_prompt = ms_seed / y.size, max(ms_prompt - rest, 0) / y.size
    total = part_seed + part_prompt
    tp, ts = student.isf(alpha / 2, prompts - 1), student.isf(alpha / 2, seeds - 1)
    quartic = tp**4 + (ts**4 - tp**4) * (part_seed / total) ** 2
    return max(math.sqrt(quartic) * total, tp**2 * y.var(ddof=1) / y.size)


def wilson(y, alpha=0.05):
    """Wilson's limits with z^2 / n = q^2 V / (p (1 - p))."""
    p = y.mean()
    g = squared_half_width(y, alpha) / (p * (1 - p))
    centre, half = (p + g / 2) / (1 + g), math.sqrt(g * p * (1 - p) + g * g / 4) / (1 + g)
    return centre - half, centre + half


def p_value(y, null=0.5):
    """The alpha at which the limits just reach the null value."""

    def reach(log_alpha):
        low, high = wilson(y, math.exp(log_alpha))
        return (low if y.mean() > null else -high) - (null if y.mean() > null else -null)

    return math.exp(brentq(reach, math.log(1e-30), math.log(1 - 1e-9)))


def holm(found):
    order, worst, adjusted = sorted(found, key=found.get), 0.0, {}
    for place, key in enumerate(order):
        worst = max(worst, found[key] * (len(order) - place))
        adjusted[key] = min(worst, 1.0)
    return adjusted


@pytest.fixture(scope="module")
def known(raw):
    """Wins [seeds, prompts] of every comparison, p with Holm's correction."""
    rewards = {name: values(raw, name, "reward.gold") for name in ("sft", *METHODS)}
    wins = {(a, "sft"): values(raw, a, "win_rate.gold") for a in METHODS}
    for a, b in (("a", "b"), ("a", "c"), ("b", "c")):
        wins[a, b] = (rewards[a] > rewards[b]) + 0.5 * (rewards[a] == rewards[b])
    return wins, holm({pair: p_value(y) for pair, y in wins.items()})


def limits(y):
    low, high = wilson(y)
    return f"95% interval {100 * low:.0f} to {100 * high:.0f}"


def test_rates_intervals_and_p_of_every_comparison(raw, known):
    wins, adjusted = known
    found = screen(raw)
    said = {text.partition(":")[0]: text for text in [*found.certainty, *found.not_shown]}
    names = {"sft": "SFT", "a": "a", "b": "b", "c": "c"}
    shown = set()
    for (a, b), y in wins.items():
        p = adjusted[a, b]
        ahead = y if y.mean() > 0.5 else 1 - y
        first, second = (a, b) if y.mean() > 0.5 else (b, a)
        heads = [
            f"Not decided between {a} and {names[b]}",
            f"{first} beats SFT" if b == "sft" else f"{first} is better than {names[second]}",
            f"{first} is not worse than {names[second]} by more than 5 points, and neither is shown to be better",
        ]
        text = next(said[head] for head in heads if head in said)
        decided = p < 0.05
        assert decided == (" is better than " in text.partition(":")[0] or " beats SFT" in text)
        shown |= {(first, second)} if decided else set()
        y = ahead if decided else y
        assert f"{y.mean():.0%}" in text and limits(y) in text
        assert ("adjusted p < 0.001" if p < 0.001 else f"adjusted p = {p:.3f}") in text
        assert ("3 seeds" if b == "sft" else "the 3 seeds of both") in text
    assert {("a", "sft"), ("a", "b")} <= shown  # or the seed was a poor one
    if all(("a", other) in shown for other in ("sft", "b", "c")):
        assert (
            found.recommendation == "Use a: it is shown to beat SFT and to be better than b and c by the true reward."
        )


def test_other_scorers_rates(raw):
    text = next(text for text in screen(raw).certainty if text.startswith("By the judge"))
    for name in METHODS:
        y = values(raw, name, "win_rate.judge")
        low, high = wilson(y)
        assert f"{name} {y.mean():.0%} ({100 * low:.0f} to {100 * high:.0f})" in text


def test_elo_points(raw):
    """Newton's method on the Bradley-Terry likelihood; the interval from leaving out each response (jackknife)."""
    rewards = {name: values(raw, name, "reward.gold") for name in ("sft", *METHODS)}
    pairs = [("sft", m) for m in METHODS] + [("a", "b"), ("a", "c"), ("b", "c")]
    wins = np.array([(rewards[i] > rewards[j]) + 0.5 * (rewards[i] == rewards[j]) for i, j in pairs]).reshape(6, -1)
    design = np.array([[(name == i) - (name == j) for name in METHODS] for i, j in pairs], dtype=float)

    def fit(keep, theta, steps):
        for _ in range(steps):
            chance = 1 / (1 + np.exp(-design @ theta))
            gradient = design.T @ (wins[:, keep].sum(1) - keep.size * chance)
            hessian = design.T @ (design * (keep.size * chance * (1 - chance))[:, None])
            theta = theta + np.linalg.solve(hessian, gradient)
        return theta

    n = wins.shape[1]
    whole = fit(np.arange(n), np.zeros(3), 30)
    without = np.array([fit(np.delete(np.arange(n), i), whole, 3) for i in range(n)])
    elo = 400 / math.log(10)
    text = next(text for text in screen(raw).certainty if text.startswith("Elo points over SFT by the true reward"))
    for place, name in enumerate(METHODS):
        shown = [int(part) for part in re.search(rf"{name} ([+-]\d+) \(([+-]\d+) to ([+-]\d+)\)", text).groups()]
        rating = elo * whole[place]
        influence = elo * (n - 1) * (whole[place] - without[:, place]).reshape(3, PROMPTS)
        half = math.sqrt(squared_half_width(influence, 0.05))
        assert shown[0] == round(rating)
        assert shown[1:] == pytest.approx([rating - half, rating + half], abs=2)


def test_costs(raw):
    said = screen(raw)
    for place, name in enumerate(METHODS):
        seconds = np.mean([json.loads((raw / f"{name}-{s}.json").read_text())["seconds"] for s in range(3)])
        line = next(text for text in said.cost if text.startswith(f"{name}: "))
        assert f"{seconds:.0f} s" in line and f"{1 + place:.2f} GFLOP" in line
    assert any("3.0 times the FLOPs" in text for text in said.confounds)


@pytest.mark.parametrize(("passed", "word"), [(True, "Nothing was"), (False, "Nothing else was")])
def test_beside_a_failed_gate_it_is_not_said_that_nothing_was_found(passed, word):
    """The gate stands above, among the alarms."""
    gate = {"name": "g", "text": "g is at 0.4", "passed": passed}
    summary = {"methods": {}, "contract": {}, "comparisons": [], "warnings": [], "gates": [gate]}
    found = {answer.question: answer for answer in page(Material({}, summary, [], []))["answers"]["others"]}
    broken = found["Where it breaks"]
    assert not broken.sentences and broken.otherwise == f"{word} found that weakens this verdict."
