"""False-claim rates of who is ahead under budgets of four kinds, and whether that hangs on the kind, by simulation.

Two methods at three budgets. A response wins where a latent score is above 0: its policy's quality, a prompt's part (sd
0.7, half of its variance shared by all policies), a training run's part (sd 0.2) and the rest (sd 0.7). A policy's
quality hangs on how far it went from SFT, to which a training run adds 10% (sd); with one seed training runs do not
vary, for sentences are then about the policies. The winners of a tuning are those of `claims_verdict.py`.
"""

import re
from typing import Any

import numpy as np
import pandas

from ...analysis.axes import along_axes
from ...analysis.budgets import BUDGET, NOBODY, sentences
from ...analysis.comparisons import comparisons as compared
from ...analysis.frontier import Point, comparisons
from ...analysis.grids import SFT
from ...analysis.interpolation import FLOPS
from ...analysis.summary import plain
from .claims import rate_row
from .claims_axes import METRIC, REST_SD, RUN_SD
from .claims_verdict import World, draw

SIZES = ((300, 1), (300, 3), (48, 1))  # prompts and seeds
EXAMPLES = [1000, 2000, 4000]
NEAR, FAR = (0.5, 0.9, 1.5), (0.9, 1.6, 2.6)  # sqrt(KL) at each budget; compute is its square
KINDS = {
    "equal examples": r"with equal examples \(4000\) ([^,.;]*)",
    "equal training compute": r"at equal training compute ([^,.;]*)",
    "equal KL": r"at equal KL ([^,.;]*)",
    "equal tuning": r"with equal tuning \(12 trials each\) ([^,.;]*)",
}
DEPENDS = "so the order depends on what is equal"
# name: distances of a, what a has over b everywhere, and the kinds of budget under which a is ahead
DESIGNS: dict[str, tuple[tuple[float, ...], float, tuple[str, ...]]] = {
    "equal under every budget": (NEAR, 0.0, ()),
    "a ahead under every budget": (NEAR, 0.4, tuple(KINDS)),
    "on one curve, on which a goes further": (FAR, 0.0, ("equal examples",)),
}


def simulate(design: str, prompts: int, seeds: int, rng: np.random.Generator) -> str:
    """The sentences of one simulated study."""
    further, over, _ = DESIGNS[design]
    shared = rng.normal(0, 0.5, prompts)
    ids, frames, points = np.indices((seeds, prompts)), [], {}
    for name, distances, gain in (("a", further, over), ("b", NEAR, 0.0)):
        own, rows = shared + rng.normal(0, 0.5, prompts), []
        for place, d in enumerate(distances):
            many = float(seeds > 1)
            places = d * np.exp(many * rng.normal(0, 0.1, (seeds, 1)))
            runs = gain + places * (0.8 - 0.1 * places) + many * rng.normal(0, RUN_SD, (seeds, 1))
            wins = (runs + own + rng.normal(0, REST_SD, (seeds, prompts)) > 0).astype(float)
            kl = rng.gamma(4, 1 / 4, (seeds, prompts)) * places**2
            scores = {METRIC: pandas.DataFrame(wins - 0.5)}
            rows.append(Point(f"{name}:{place}", pandas.DataFrame(kl), scores, 1e12 * d**2))
            columns = {"seed": ids[0].ravel(), "prompt_id": ids[1].ravel(), "value": wins.ravel()}
            frames.append(pandas.DataFrame({"method": name, "metric": METRIC, **columns, BUDGET: float(place)}))
        points[name] = rows
    world = World("winners of a tuning", {"a": 0.3 + over, "b": 0.3}, RUN_SD if seeds > 1 else 0.0)
    tuned = compared(draw(world, prompts, seeds, rng).grids, [SFT, *world.means])
    part = {"at": {}, "comparisons": comparisons(points), "equal_compute": comparisons(points, FLOPS)}
    names = {name: name for name in points}
    study = {
        "axes": along_axes(pandas.concat(frames), {BUDGET: EXAMPLES}),
        "frontiers": [part],
        "tuned": {"at": [{}], "rows": names, "trials": dict.fromkeys(names, 12), "comparisons": tuned},
    }
    return " ".join(sentences(plain(study)))


def false_claims(said: str, design: str) -> set[str]:
    """The kinds of budget of which something false is said, and `DEPENDS` where that is said: no design has it."""
    ahead, found = DESIGNS[design][2], set[str]()
    for kind, pattern in KINDS.items():
        match = re.search(pattern, said)
        who = match[1] if match else ""
        if who not in ("", NOBODY) and (kind not in ahead or who not in ("a is ahead", "the a policies are ahead")):
            found.add(kind)
    return found | ({DEPENDS} if DEPENDS in said else set())


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """Rows of sentence, design, runs, and the share of runs in which one was printed and false, with 95% limits."""
    found: list[dict[str, Any]] = []
    for design in DESIGNS:
        for prompts, seeds in SIZES:
            rng = np.random.default_rng([seed, len(found)])
            made = [false_claims(simulate(design, prompts, seeds, rng), design) for _ in range(runs)]
            text = f"{design}; {prompts} prompts, {seeds} seed{'s' * (seeds > 1)}"
            for kind in (*KINDS, DEPENDS):
                sentence = kind if kind == DEPENDS else f"ahead by {kind}"
                found.append(rate_row(sentence, text, sum(kind in one for one in made), runs))
    return found
