"""The policies that methods aim at, by the name that a class gives as `goal`: `bench check` requires the distance.

Each optimum is a table of log-probs [prompts, responses] over all responses of the known-optimum world, derived from
the papers' objectives and from nothing that a method computes, but for `least_loss` and `orpo_by_batch`.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import Tensor

from ...errors import InputError, nearest
from ...methods import losses
from ...methods.pairwise import PairLogps
from ...models.policy import TokenValues
from .optimum import LETTERS, OptimumWorld

# A slope of the loss, in its units a nat, with which a search has not found its least: 0.004 left the hinge 0.026 nats
# from it; smooth losses end below 1e-6, DPOP's with a small penalty at 0.0005.
STEEP = 1e-3
# Settings with which a goal's optimum is known; with others a method goes elsewhere, and rightly so.
KNOWN_WITH: Mapping[str, Any] = {"gamma": 1.0, "kl_estimator": "k1", "target_kl": None}


@dataclass(frozen=True)
class Goal:
    """An optimum with the words for it, or the reason why there is none to require."""

    said: str
    optimum: Callable[[OptimumWorld, "Fields"], Tensor] | None = None
    flips: bool = False
    """The world flips the share of labels that the method's `flip_rate` says."""
    noisy: bool = False
    """The world's reward is drawn like a Bradley-Terry labeller's."""
    known_with: Mapping[str, Any] | None = None
    """Settings that this goal wants, beside those of KNOWN_WITH."""
    settings: Mapping[str, Any] | None = None
    """Settings with which it is near enough to be reached in short, beside those of every check."""


class Fields:
    """A method's settings under the names that goals know them by, which its `goal_fields` may say."""

    def __init__(self, method: Any):
        self.method = method
        self.names: Mapping[str, str] = getattr(method, "goal_fields", {})

    def __call__(self, name: str, *default: Any) -> Any:
        """InputError for a field that a goal needs and the method does not have; default: where it needs none."""
        field = self.names.get(name, name)
        if not default and not hasattr(self.method, field):
            raise InputError(
                f"{type(self.method).__name__} has the goal {self.method.goal!r} and no {field!r}; name its field in "
                f"goal_fields = {{{name!r}: ...}}"
            )
        return getattr(self.method, field, *default)


def goal_of(cls: type) -> Goal | None:
    """A method class's goal; None where it declares none. InputError for one that is not known."""
    name = getattr(cls, "goal", "")
    if name and name not in GOALS:
        raise InputError(f"{cls.__name__}: there is no goal {name!r}; {nearest(name, GOALS)}")
    return GOALS[name] if name else None


def unknown_with(goal: Goal, method: Any) -> str:
    """The first setting of a method with which the goal's optimum is not known; empty where there is none."""
    if goal.optimum is None:
        return ""
    fields = Fields(method)
    for name, wanted in {**KNOWN_WITH, **(goal.known_with or {})}.items():
        if (has := fields(name, wanted)) != wanted:
            return f"{name} is {has}"
    return "beta is 0" if fields("beta", 1.0) == 0 else ""


def reward_table(world: OptimumWorld, fields: Fields, given: Tensor | None = None) -> Tensor:
    """The rewards that a method with these settings learns from; `given` in place of the world's own.

    Normalized by their mean and deviation under the reference, less what a missing EOS and each token cost.
    """
    rewards = (world.rewards if given is None else given).double()
    if fields("normalize_reward", False):
        chances = world.logps(world.reference, fields("temperature", 1.0)).exp() / len(rewards)
        mean = (chances * rewards).sum()
        rewards = (rewards - mean) / (chances * (rewards - mean) ** 2).sum().sqrt()
    unfinished = torch.tensor([float(len(text.split()) == 2) for text in world.texts], dtype=torch.float64)
    costs = fields("missing_eos_penalty", 0.0) * unfinished + fields("length_weight", 0.0) * world.lengths
    return rewards - costs


def pulled(world: OptimumWorld, fields: Fields, rewards: Tensor) -> Tensor:
    """pi* proportional to pi_ref exp(r / beta); Rafailov et al. (2023), eq. 4."""
    reference = world.logps(world.reference, fields("temperature", 1.0))
    return (reference + rewards / fields("beta")).log_softmax(1)


def kl_regularized_reward(world: OptimumWorld, fields: Fields) -> Tensor:
    """Labels that are smoothed stand for other rewards: those with which Bradley-Terry tells the smoothed chances."""
    rewards = reward_table(world, fields)
    if smoothing := fields("label_smoothing", 0.0):
        wanted = smoothing + (1 - 2 * smoothing) * world.wins
        rewards = minimum(lambda r: _cross_entropy(r, wanted), torch.zeros_like(rewards))
    return pulled(world, fields, rewards)


def _cross_entropy(rewards: Tensor, wanted: Tensor) -> Tensor:
    return -(wanted * F.logsigmoid(rewards[:, :, None] - rewards[:, None, :])).mean()


def ensemble_reward(world: OptimumWorld, fields: Fields) -> Tensor:
    """Each model counts from its mean under the reference; the least of them, or mean less weight times variance."""
    count = fields("reward_models")
    tables = torch.stack([world.rewards, *world.other_rewards(count - 1)]).double()
    chances = world.logps(world.reference, fields("temperature", 1.0)).exp() / len(world.rewards)
    tables = tables - (tables * chances).sum((1, 2), keepdim=True)
    worth = tables.amin(0)
    if fields("combine") != "min":
        mean = tables.mean(0)
        worth = mean - fields("variance_weight") * ((tables - mean) ** 2).mean(0)
    return pulled(world, fields, reward_table(world, fields, worth))


def ipo(world: OptimumWorld, fields: Fields) -> Tensor:
    """Each pair asks for a log-ratio difference of (2 p - 1) / (2 beta) in the mean over its labels, p being how often
    the first wins; with every two compared equally often the least-squares solution gives each response the mean of
    that over all (Azar et al. 2023, section 5: a regression). With means a token, differences of those."""
    margins = ((2 * world.wins - 1) / (2 * fields("beta"))).mean(2)
    return by_token(world, margins) if fields("length") == "mean" else (world.reference_logps + margins).log_softmax(1)


def length_normalized(world: OptimumWorld, fields: Fields) -> Tensor:
    """beta times the difference of the log-ratios a token is that of the rewards."""
    return by_token(world, world.rewards.double() / fields("beta"))


def by_token(world: OptimumWorld, means: Tensor) -> Tensor:
    """Log-probs whose log-ratios a token are `means` [prompts, responses] but for a constant of each prompt's, which
    makes the chances sum to 1: found by bisection, for the sum rises with it."""
    low, high = (torch.full((len(means), 1), end, dtype=torch.float64) for end in (-100.0, 100.0))
    for _ in range(100):
        middle = (low + high) / 2
        logps = world.reference_logps + world.lengths * (means + middle)
        above = logps.logsumexp(1, keepdim=True) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return logps


def least_loss(world: OptimumWorld, fields: Fields) -> Tensor:
    """The table with the least expected loss, by the method's own `loss` over all pairs and labels.

    So it is the training that is required, and not the loss.
    """
    return least(world, fields.method, fields.method.loss)


def least(world: OptimumWorld, method: Any, of: Callable[[PairLogps], Tensor]) -> Tensor:
    """The table with the least mean over all pairs and labels of losses `of`; method: says what they need.

    InputError where L-BFGS stops at a kink, for the least may then be elsewhere.
    """
    reference = world.reference_logps
    first, second = (
        torch.tensor(part) for part in zip(*itertools.permutations(range(len(world.texts)), 2), strict=True)
    )

    def loss(table: Tensor) -> Tensor:
        parts = []
        for p, values in enumerate(_tokens(world, table)):
            sides = [TokenValues(values[side], world.lengths[side, None] > torch.arange(2)) for side in (first, second)]
            given = [reference[p, side] if method.needs_reference else None for side in (first, second)]
            read = learnt_of_prompt(world)  # none of these can change here
            prompt = TokenValues(torch.zeros(len(first), read), torch.ones(len(first), read, dtype=torch.bool))
            logps = PairLogps(sides[0], sides[1], given[0], given[1], prompt if method.needs_prompt else None)
            parts.append((world.wins[p, first, second] * of(logps)).mean())
        return torch.stack(parts).mean()

    start = torch.zeros(len(world.prompts), 1 + len(LETTERS), 1 + len(LETTERS), dtype=torch.float64)
    found = minimum(loss, start).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(found), found)
    if (steep := float(slope.norm())) > STEEP:
        raise InputError(
            f"the least of {type(method).__name__}'s loss was not found: its slope there is {steep:.2g}; a loss with "
            f"kinks needs a goal of its own, as hinge has in {__name__.rpartition('.')[2]}.py, or none"
        )
    return _tokens(world, found.detach()).sum(2)


def hinge(world: OptimumWorld, fields: Fields) -> Tensor:
    """Log-ratios h with the least expected max(0, 1 - beta (h_w - h_l)), by linear programming.

    L-BFGS stops at its kinks. The sum of the chances is no constraint: a constant that all log-ratios of a prompt have
    more changes no margin.
    """
    first, second = (np.array(part) for part in zip(*itertools.permutations(range(len(world.texts)), 2), strict=True))
    pairs, replies = np.arange(len(first)), len(world.texts)
    # a loss of each pair, at least 0, beside the log-ratios: beta (h_w - h_l) + loss >= 1
    margins = np.zeros((len(pairs), replies + len(pairs)))
    margins[pairs, first], margins[pairs, second] = -fields("beta"), fields("beta")
    margins[pairs, replies + pairs] = -1
    bounds = [(None, None)] * replies + [(0, None)] * len(pairs)
    log_ratios = [
        linprog(np.r_[np.zeros(replies), wins[first, second]], margins, -np.ones(len(pairs)), bounds=bounds).x[:replies]
        for wins in world.wins.numpy()
    ]
    return (world.reference_logps + torch.tensor(np.stack(log_ratios))).log_softmax(1)


def learnt_of_prompt(world: OptimumWorld) -> int:
    """Tokens of a prompt that have a log-prob: all but the first, equally many in every prompt of this world."""
    (count,) = {len(prompt.ids) - 1 for prompt in world.prompts}
    return count


def orpo_by_batch(world: OptimumWorld, fields: Fields) -> Tensor:
    """ORPO whose NLL is one mean over all tokens of a batch, as TRL has it, and so over those of all chosen replies.

    Each reply's sum is then divided by the mean length of prompt and chosen reply in place of by its own.
    """
    chosen = chosen_replies(world, fields).exp()
    tokens = learnt_of_prompt(world) + float((chosen * world.lengths).sum(1).mean())

    def loss(logps: PairLogps) -> Tensor:
        return losses.orpo(
            logps.chosen.mean(), logps.rejected.mean(), -logps.chosen.sum() / tokens, weight=fields("weight")
        )

    return least(world, fields.method, loss)


def _tokens(world: OptimumWorld, table: Tensor) -> Tensor:
    """Log-probs [prompts, responses, 2] of each response's tokens, from logits [prompts, 1 + letters, tokens] of the
    first token and of the second after each letter; tokens: EOS, then the letters."""
    logps, rows = table.log_softmax(2), []
    for text in world.texts:
        places = [1 + LETTERS.index(letter) for letter in text.split()]
        places += [0] if len(places) < 2 else []
        first = logps[:, 0, places[0]]
        rows.append(torch.stack([first, logps[:, places[0], places[1]] if places[1:] else torch.zeros_like(first)], 1))
    return torch.stack(rows, 1)


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where a smooth function of a table is least, by L-BFGS in double precision."""
    table = start.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [table], max_iter=2000, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        search.zero_grad()
        value = loss(table)
        value.backward()
        return value

    with torch.enable_grad():
        search.step(step)
    return table.detach()


def forward_kl(world: OptimumWorld, fields: Fields) -> Tensor:
    """A KL in the loss by the k3 estimate pulls by the gradient of KL(pi_ref || pi) token by token, and a group of k
    with its own mean as the baseline learns from (k - 1) / k of the reward. So at every token, with Q the reward to be
    expected after it, pi = beta pi_ref / (rest - (k - 1) / k Q), whose rest makes the chances sum to 1."""
    beta, k = fields("beta"), fields("samples_per_prompt")
    share = (k - 1) / k
    rewards = reward_table(world, fields)
    logps = world.logps(world.reference, fields("temperature", 1.0))
    place = {text: i for i, text in enumerate(world.texts)}

    def best(reference: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
        """Chances of the tokens at one place [prompts, tokens], and the reward to be expected there [prompts]."""
        gains = share * worth
        low, high = gains.amax(1, keepdim=True), gains.amax(1, keepdim=True) + beta
        for _ in range(100):
            middle = (low + high) / 2
            above = (beta * reference / (middle - gains)).sum(1, keepdim=True) > 1
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        chances = beta * reference / (high - gains)
        return chances, (chances * worth).sum(1)

    after, worth, starts = {}, [rewards[:, place[""]]], [logps[:, place[""]].exp()]
    for letter in LETTERS:
        columns = [place[letter], *(place[f"{letter} {other}"] for other in LETTERS)]
        together = logps[:, columns].exp()
        after[letter], expected = best(together / together.sum(1, keepdim=True), rewards[:, columns])
        worth.append(expected)
        starts.append(together.sum(1))
    begin, _ = best(torch.stack(starts, 1), torch.stack(worth, 1))
    found = torch.zeros_like(rewards)
    found[:, place[""]] = begin[:, 0]
    for i, letter in enumerate(LETTERS):
        columns = [place[letter], *(place[f"{letter} {other}"] for other in LETTERS)]
        found[:, columns] = begin[:, i + 1, None] * after[letter]
    return found.log()


def chosen_replies(world: OptimumWorld, fields: Fields) -> Tensor:
    """How often each response is the chosen one, where every two are compared equally often."""
    others = world.wins.sum(2) - 0.5  # itself is no other
    return (others / others.sum(1, keepdim=True)).log()


def best_of_n(world: OptimumWorld, fields: Fields) -> Tensor:
    """A response is the best with the chance that all n are at most as good, less that all are worse."""
    n, order = fields("n"), world.rewards.argsort(1)
    upto = world.reference_logps.exp().gather(1, order).cumsum(1)
    below = torch.cat([torch.zeros_like(upto[:, :1]), upto[:, :-1]], 1)
    chances = torch.zeros_like(upto).scatter(1, order, upto**n - below**n)
    return chances.clamp(min=1e-300).log()


PI_STAR = "pi* proportional to pi_ref exp(r / beta)"
GOALS: dict[str, Goal] = {
    "kl_regularized_reward": Goal(PI_STAR, kl_regularized_reward),
    "flipped_labels": Goal(
        f"{PI_STAR}, from labels of which the share flip_rate is flipped", kl_regularized_reward, flips=True
    ),
    "sampled_preferences": Goal(
        f"{PI_STAR}, from rewards with a Bradley-Terry labeller's noise",
        kl_regularized_reward,
        noisy=True,
        known_with={"missing_eos_penalty": 0.0, "normalize_reward": False},
        settings={"beta": 1.0},  # a comparison tells four times as much as at 0.5, and two equal responses tell nothing
    ),
    "ensemble_reward": Goal(f"{PI_STAR} with what several reward models say", ensemble_reward),
    "ipo": Goal("its regression on win probabilities, solved (Azar et al. 2023, section 5)", ipo),
    "length_normalized": Goal(
        "log-ratios a token that differ as the rewards over beta do",
        length_normalized,
        settings={"beta": 1.0},  # of a reply of two tokens as much as 0.5 of a sum
    ),
    "least_loss": Goal(
        "the least of its own loss over all tables of probabilities, so the loss is not checked", least_loss
    ),
    "hinge": Goal("the least of the expected hinge of its margins", hinge),
    "orpo_by_batch": Goal(
        "the least of ORPO's loss over all tables of probabilities, its NLL a mean over all tokens of a batch",
        orpo_by_batch,
    ),
    "forward_kl": Goal("the reward against a KL from the reference, token by token", forward_kl),
    "chosen_replies": Goal("the distribution of the chosen replies", chosen_replies),
    "best_of_n": Goal("the best of n responses, whose chances are exact", best_of_n),
    "group_deviation": Goal("dividing by a group's deviation changes the trade against the KL by prompt and round"),
    "extremes": Goal("the best and the worst of several responses are no Bradley-Terry labeller's pair"),
    "no_kl": Goal("it has no KL term, so it moves on for as long as it trains"),
    "saturating": Goal("its utility saturates, so its goal is the best responses, which it reaches only in the limit"),
    "boundary": Goal("the least of its loss leaves some responses no chance at all, which it nears only in the limit"),
    "multiplier": Goal("its multiplier moves for as long as it trains"),
}
