"""False claims of the verdict by simulation: recommendations, differences, equality, and detectable sizes.

Latent qualities are Gaussian: a method's mean, a training run's effect, a prompt's effect that all share, and the rest;
SFT's responses are one per prompt, the same for every seed. Rewards are these qualities, so wins are their order. The
truth of a claim about methods is that of the next prompt and training run; about policies (one seed), that of these
runs on the next prompt. It is computed from the latent means, never from the sentences' own intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas
from scipy.stats import norm

from ...analysis.choice import better, choose
from ...analysis.comparisons import MARGIN, comparisons
from ...analysis.grids import SFT
from .claims import rate_row

PROMPT_SD = REST_SD = 0.7
PROMPTS, SEEDS = (23, 48, 300), (1, 2, 3, 5)
# between training runs of one method, in points of win rate, as measured on quick: from the least to the most
SPREADS = (0.017, 0.047, 0.072)


@dataclass(frozen=True)
class World:
    """Methods with their true means over SFT, sampled anew for each simulated run."""

    name: str
    means: dict[str, float]
    seed_sd: float
    """In units of the latent quality."""
    owners: dict[str, str] | None = None
    scorers: int = 1


def latent(points: float) -> float:
    """The difference of latent means at which one response wins against another in one half + `points` of the pairs."""
    return float(norm.ppf(0.5 + points)) * np.sqrt(2) * REST_SD


def _sd(spread: float) -> float:
    """A standard deviation of latent training effects that spreads win rates by `spread` around one half."""
    return latent(spread)


def worlds() -> list[World]:
    """All-equal runs, equal pairs above SFT, pairs at the margin, a ceiling, and a sweep of one method's setting."""
    found: list[World] = []
    for spread in SPREADS:
        sd, mark = _sd(spread), f"seeds spread by {100 * spread:.1f} points"
        up = latent(0.15)
        found += [
            World(f"2 methods equal to SFT, {mark}", {"a": 0.0, "b": 0.0}, sd),
            World(f"2 equal methods above SFT, {mark}", {"a": up, "b": up}, sd),
            World(f"3 equal methods above SFT, 3 scorers, {mark}", dict.fromkeys("abc", up), sd, scorers=3),
            World(f"a better than b by the margin, {mark}", {"a": up + latent(MARGIN), "b": up}, sd),
        ]
    sd = _sd(0.047)
    sweep = {f"dpo:beta={i}": 0.0 for i in range(5)}
    found += [
        World("two equal methods at 98% against SFT", dict.fromkeys("ab", latent(0.48)), sd),
        World("5 settings of one method and another, all equal to SFT", {**sweep, "ppo": 0.0}, sd,
              {**dict.fromkeys(sweep, "dpo"), "ppo": "ppo"}),
        World("6 methods, three of them better", dict(zip("abcdef", [latent(0.1)] * 3 + [0.0] * 3, strict=True)), sd),
    ]  # fmt: skip
    return found


@dataclass(frozen=True)
class Drawn:
    """One simulated run: the grids that the suite would see, and each row's true mean quality."""

    grids: dict[tuple[str, str], pandas.DataFrame]
    means: dict[str, np.ndarray]
    """row -> [seeds]: the mean of each training run."""


def draw(world: World, prompts: int, seeds: int, rng: np.random.Generator) -> Drawn:
    shared = rng.normal(0, PROMPT_SD, (1, prompts))
    runs = {name: mean + rng.normal(0, world.seed_sd, (seeds, 1)) for name, mean in world.means.items()}
    rewards = {name: mean + shared + rng.normal(0, REST_SD, (seeds, prompts)) for name, mean in runs.items()}
    rewards[SFT] = np.repeat(shared + rng.normal(0, REST_SD, (1, prompts)), seeds, axis=0)
    grids = {}
    for i, scorer in enumerate(("gold", "reward_model", "judge")[: world.scorers]):
        # further scorers see the quality through noise of their own
        seen = {n: r + (rng.normal(0, REST_SD, r.shape) if i else 0.0) for n, r in rewards.items()}
        for name, values in seen.items():
            grids[name, f"reward.{scorer}"] = pandas.DataFrame(values)
            if name != SFT:
                wins = (np.sign(values - seen[SFT]) + 1) / 2
                grids[name, f"win_rate.{scorer}"] = pandas.DataFrame(wins)
    return Drawn(grids, {name: mean[:, 0] for name, mean in runs.items()})


def truth(world: World, drawn: Drawn, a: str, b: str, seeds: int) -> float:
    """The true win rate of a against b less one half: of these policies with one seed, else of the methods."""
    if seeds == 1:
        ours, theirs = (drawn.means[n][0] if n != SFT else 0.0 for n in (a, b))
        return float(norm.cdf((ours - theirs) / (np.sqrt(2) * REST_SD))) - 0.5
    ours, theirs = (world.means[n] if n != SFT else 0.0 for n in (a, b))
    runs = world.seed_sd * np.sqrt(2.0 if b != SFT else 1.0)
    return float(norm.cdf((ours - theirs) / np.hypot(np.sqrt(2) * REST_SD, runs))) - 0.5


def false_claims(world: World, prompts: int, seeds: int, rng: np.random.Generator) -> dict[str, bool]:
    """Which sentences of one simulated run are printed and false."""
    drawn = draw(world, prompts, seeds, rng)
    rows = comparisons(drawn.grids, [SFT, *world.means], world.owners)
    headline = [row for row in rows if row["metric"] == "win_rate.gold"]
    found = dict.fromkeys(SENTENCES, False)
    for row in headline:
        real = truth(world, drawn, row["a"], row["b"], seeds)
        if winner := better(row):
            false = real <= 0 if winner == row["a"] else real >= 0
            found["beats SFT / is worse than SFT" if row["b"] == SFT else "a is better than b"] |= false
        limit = MARGIN - 1e-9  # a difference of the margin itself counts as one
        for name, gain in ((row["a"], real), (row["b"], -real)):
            found["a is not worse than b by more than the margin"] |= name in row["not_worse"] and gain <= -limit
        found["equal within the margin"] |= row["equal"] and abs(real) >= limit
    choice = choose(headline)
    if seeds > 1:
        if use := choice.use:
            found["Use a"] = any(truth(world, drawn, use, other, seeds) <= 0 for other in [*choice.over[use], SFT])
        elif len(choice.first) == 1 and choice.over[choice.first[0]]:
            name = choice.first[0]
            found["Use a over b"] = any(truth(world, drawn, name, other, seeds) <= 0 for other in choice.over[name])
        if choice.is_tie:
            gaps = [abs(truth(world, drawn, a, b, seeds)) for a, b in combinations(choice.first, 2)]
            found["choose between them by cost"] = max(gaps) >= MARGIN - 1e-9
    found["any claim"] = any(found.values())
    return found


SENTENCES = (
    "beats SFT / is worse than SFT", "a is better than b", "Use a", "Use a over b", "equal within the margin",
    "a is not worse than b by more than the margin", "choose between them by cost", "any claim",
)  # fmt: skip


def rates(runs: int, seed: int) -> list[dict[str, Any]]:
    """A row per sentence, world and size."""
    found: list[dict[str, Any]] = []
    for world in worlds():
        for prompts in PROMPTS:
            for seeds in SEEDS:
                rng = np.random.default_rng([seed, prompts, seeds, len(found)])
                made = [false_claims(world, prompts, seeds, rng) for _ in range(runs)]
                design = f"{world.name}; {prompts} prompts, {seeds} seed{'' if seeds == 1 else 's'}"
                found += [rate_row(name, design, sum(one[name] for one in made), runs) for name in SENTENCES]
    return found
