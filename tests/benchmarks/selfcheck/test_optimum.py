"""The known-optimum world: its distances against listing by other means, and the optima that methods aim at."""

import itertools
import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from alignment_bench.benchmarks.definition.plugins import available, is_ours, load
from alignment_bench.benchmarks.selfcheck import check as checking
from alignment_bench.benchmarks.selfcheck import goals
from alignment_bench.benchmarks.selfcheck.goals import GOALS, Fields, goal_of, unknown_with
from alignment_bench.benchmarks.selfcheck.optimum import BETA, COMPARISONS, LETTERS, PROMPTS, RESPONSES, OptimumWorld
from alignment_bench.errors import InputError
from alignment_bench.methods import losses
from alignment_bench.methods.apo import APODown, APOZero
from alignment_bench.methods.best_of_n import BestOfN
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.dpo_terms import DPOPositive, Hinge, LengthNormalizedDPO, LengthRegularizedDPO
from alignment_bench.methods.grpo import GRPO
from alignment_bench.methods.grpo_terms import DrGRPO
from alignment_bench.methods.ipo import IPO
from alignment_bench.methods.orpo import ORPO
from alignment_bench.methods.pairwise import PairwiseMethod
from alignment_bench.methods.ppo import PPO, token_rewards
from alignment_bench.methods.ppo_ensemble import PPOEnsemble
from alignment_bench.methods.reinforce_pp import ReinforcePlusPlus
from alignment_bench.methods.rloo import RLOO
from alignment_bench.methods.sft_chosen import SFTChosen
from alignment_bench.methods.trl_offline import TRLORPO
from alignment_bench.results.records import Generation


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return OptimumWorld(tmp_path_factory.mktemp("optimum"))


def listed_logps(world) -> list[dict[str, float]]:
    """Log-probs of every response by plain transformers, one at a time: by hand, what can be said in two tokens."""
    model = AutoModelForCausalLM.from_pretrained(world.reference.path)
    tokenizer = world.reference.tokenizer()
    said = [["</s>"], *([x, "</s>"] for x in LETTERS), *([x, y] for x in LETTERS for y in LETTERS)]
    table = []
    for prompt in PROMPTS:
        row = {}
        for tokens in said:
            ids = tokenizer.convert_tokens_to_ids([*prompt.split(), *tokens])
            with torch.no_grad():
                logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            row[" ".join(t for t in tokens if t != "</s>")] = sum(
                float(logps[i - 1, ids[i]]) for i in range(2, len(ids))
            )
        table.append(row)
    return table


def test_start_against_listing_by_hand(world):
    """All probabilities sum to 1; KL(ref || pi*), in plain Python from the definition of pi*."""
    kls = []
    for p, listed in enumerate(listed_logps(world)):
        assert sum(math.exp(x) for x in listed.values()) == pytest.approx(1.0, abs=1e-5)
        rewards = dict(zip(RESPONSES, world.rewards[p].tolist(), strict=True))
        total = sum(math.exp(x + rewards[text] / BETA) for text, x in listed.items())
        best = {text: x + rewards[text] / BETA - math.log(total) for text, x in listed.items()}
        kls.append(sum(math.exp(x) * (x - best[text]) for text, x in listed.items()))
    found = world.distance(world.logps(world.reference), optimum(world, DPO(beta=BETA)))
    assert found.kl_to_optimum == pytest.approx(sum(kls) / len(PROMPTS), rel=1e-4)
    assert found.kl_to_reference == pytest.approx(0.0, abs=1e-5)
    assert found.kl_to_optimum > 2.0


def test_labels_follow_bradley_terry(world):
    """Each two: the expected wins, rounded up or down; all: without bias. Flipped ones the other way about."""
    for flipped in (0.0, 0.1):
        pairs = Counter((p.prompt.id, p.chosen, p.rejected) for p in world.pair_dataset(seed=3, flipped=flipped).pairs)
        differences = []
        for p, prompt in enumerate(world.prompts):
            for i, j in itertools.combinations(range(len(RESPONSES)), 2):
                chance = 1 / (1 + math.exp(float(world.rewards[p, j] - world.rewards[p, i])))
                said = chance * (1 - flipped) + (1 - chance) * flipped
                wins, losses = (pairs[prompt.id, world.responses[x], world.responses[y]] for x, y in ((i, j), (j, i)))
                assert wins + losses == COMPARISONS
                differences.append(wins - COMPARISONS * said)
        assert max(map(abs, differences)) < 1
        assert abs(sum(differences)) < 4 * math.sqrt(len(differences) / 4)


def test_reward_reads_text(world):
    """EOS at once is the first of the list, then four letters, then the pairs: "b d" is number 5 + 4 + 3."""

    def generation(response):
        return Generation("c d", ({"role": "user", "content": "c d"},), response, 2, True)

    found = world.reward([generation(""), generation("b"), generation("b d")])
    assert found == pytest.approx([float(world.rewards[1][i]) for i in (0, 2, 12)])


def test_noisy_rewards_compare_as_bradley_terry_labellers_do(world):
    reward = world.noisy_reward(seed=0)
    one, other = (Generation("c d", ({"role": "user", "content": "c d"},), text, 1, True) for text in ("a", "b"))
    said = reward([one, other] * 20_000)
    share = sum(first > second for first, second in zip(said[::2], said[1::2], strict=True)) / 20_000
    chance = 1 / (1 + math.exp(float(world.rewards[1, 2] - world.rewards[1, 1])))
    assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / 20_000)


def optimum(world, method):
    goal = goal_of(type(method))
    assert goal is not None and goal.optimum is not None and unknown_with(goal, method) == ""
    found = goal.optimum(world, Fields(method))
    assert found.exp().sum(1) == pytest.approx(1.0, abs=1e-6)
    return found


def off(world, logps, wanted):
    return world.distance(logps, wanted).kl_to_optimum


@dataclass(frozen=True, kw_only=True)
class Own(PairwiseMethod):
    """Any loss, whose least is asked for."""

    of: Any
    goal: ClassVar[str] = "least_loss"
    needs_reference: ClassVar[bool] = True

    def loss(self, logps):
        return self.of(logps)


@pytest.mark.parametrize(
    "method",
    [
        DPO(beta=0.5),
        DPO(beta=0.5, label_smoothing=0.2),
        IPO(beta=0.5, length="sum"),
        IPO(beta=0.5, length="mean"),
        LengthNormalizedDPO(beta=1.0),
        LengthRegularizedDPO(beta=0.5, length_weight=0.3),
    ],
    ids=str,
)
def test_what_theory_says_is_where_the_methods_own_loss_is_least(world, method):
    """Two ways to one table: the paper's closed form, and the search over all tables with the loss itself."""
    assert off(world, optimum(world, Own(of=method.loss)), optimum(world, method)) < 1e-5


def without_reference(logps):
    return -F.logsigmoid(0.5 * (logps.chosen.sum() - logps.rejected.sum()))


def masked_off_by_one(logps):
    """The first token of each response counts as one of the prompt's."""
    chosen, rejected = (side.values[:, 1:].sum(1) for side in (logps.chosen, logps.rejected))
    return -F.logsigmoid(0.5 * (chosen - logps.reference_chosen - rejected + logps.reference_rejected))


@pytest.mark.parametrize("loss", [DPO(beta=0.25).loss, DPO(beta=0.6).loss, without_reference, masked_off_by_one])
def test_mistakes_lead_further_away_than_what_is_required(world, loss):
    """Trained without end such a loss ends at its least, far from the goal that it declares."""
    assert off(world, optimum(world, Own(of=loss)), optimum(world, DPO(beta=0.5))) > 2 * checking.TARGET


def test_settings_are_inside_the_optimum(world):
    """Temperature, normalization and the cost of a missing EOS, each from the definition."""
    hot = world.logps(world.reference, 2.0)
    model = AutoModelForCausalLM.from_pretrained(world.reference.path)
    first, second = (world.reference.tokenizer().convert_tokens_to_ids(list(text)) for text in ("cd", "ba"))
    with torch.no_grad():
        logits = model(torch.tensor([[*first, *second]])).logits[0].double() / 2
    by_hand = sum(float(logits[i - 1].log_softmax(-1)[token]) for i, token in zip((2, 3), second, strict=True))
    assert float(hot[1, RESPONSES.index("b a")]) == pytest.approx(by_hand, abs=1e-4)

    chances, rewards = hot.exp() / len(PROMPTS), world.rewards.double()
    mean = float((chances * rewards).sum())
    deviation = math.sqrt(float((chances * rewards**2).sum()) - mean**2)
    cut = torch.tensor([float(" " in text) for text in RESPONSES])
    worth = (rewards - mean) / deviation - 0.3 * cut
    method = RLOO(beta=0.5, temperature=2.0, normalize_reward=True, missing_eos_penalty=0.3)
    wanted = (hot + worth / 0.5).log_softmax(1)
    assert torch.allclose(optimum(world, method), wanted, atol=1e-6)


def test_an_ensembles_reward_is_the_least_of_its_models(world):
    """At one prompt, in plain Python: each model from its mean over all prompts, then the least of them."""
    chances = world.reference_logps.exp() / len(PROMPTS)
    tables = [world.rewards, *world.other_rewards(2)]
    means = [float((chances * table).sum()) for table in tables]
    worth = [min(float(t[1, i]) - m for t, m in zip(tables, means, strict=True)) for i in range(len(RESPONSES))]
    wanted = (world.reference_logps[1] + torch.tensor(worth) / 0.5).log_softmax(0)
    method = PPOEnsemble(reward_models=3, beta=0.5, normalize_reward=False, missing_eos_penalty=0.0)
    assert torch.allclose(optimum(world, method)[1], wanted, atol=1e-5)
    mean = PPOEnsemble(**{**asdict(method), "combine": "mean_minus_variance", "variance_weight": 1.0})
    values = [float(t[0, 7]) - m for t, m in zip(tables, means, strict=True)]
    one = sum(values) / 3 - sum((v - sum(values) / 3) ** 2 for v in values) / 3
    values = [float(t[0, 9]) - m for t, m in zip(tables, means, strict=True)]
    other = sum(values) / 3 - sum((v - sum(values) / 3) ** 2 for v in values) / 3
    found = (optimum(world, mean) - world.reference_logps)[0]
    assert float(found[7] - found[9]) == pytest.approx((one - other) / 0.5, abs=1e-5)


def logits_of(logps):
    """Logits of the first token, and of the second after each letter, with the place of each response in them."""
    starts = [[i for i, text in enumerate(RESPONSES) if text.startswith(letter)] for letter in LETTERS]
    first = torch.cat([logps[:1], *(logps[columns].logsumexp(0)[None] for columns in starts)])
    places = {0: [(0, 0)]}
    for row, columns in enumerate(starts, 1):
        places |= {i: [(0, row), (row, column)] for column, i in enumerate(columns)}
    return [first, *(logps[columns].log_softmax(0) for columns in starts)], places


def test_a_kl_in_the_loss_has_no_slope_at_its_optimum(world):
    """The expected loss of Dr. GRPO from its definition: every token learns from 3/4 of the reward, and k3 pulls."""
    found = optimum(world, DrGRPO(beta=0.5, normalize_reward=False, missing_eos_penalty=0.0))[0]
    table, places = logits_of(found)
    base, _ = logits_of(world.reference_logps[0])
    logits = [part.clone().requires_grad_() for part in table]
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(len(RESPONSES)):
        for row, column in places[i]:
            new, old = logits[row].log_softmax(0)[column], base[row][column]
            k3 = (old - new).exp() - 1 - (old - new)
            loss = loss + found[i].exp() * (0.5 * k3 - 0.75 * world.rewards[0, i] * new)
    loss.backward()
    assert max(float(part.grad.abs().max()) for part in logits) < 1e-6


@pytest.mark.parametrize(("beta", "least", "most"), [(0.5, 0.0, 1e-6), (0.25, 1e-2, 10.0)])
def test_reinforce_pps_expected_update_is_none_at_its_goal_and_only_there(world, beta, least, most):
    """Its returns at every token of every response, each as often as it is drawn; what whitening adds moves no mean."""
    settings = {"normalize_reward": False, "missing_eos_penalty": 0.0}
    found = optimum(world, ReinforcePlusPlus(beta=beta, **settings))[0]
    table, places = logits_of(found)
    logits, base = [part.clone().requires_grad_() for part in table], logits_of(world.reference_logps[0])[0]
    mask = torch.tensor([[True, len(places[i]) == 2] for i in range(len(RESPONSES))])

    def tokens(parts):
        logps = [part.log_softmax(0) for part in parts]
        rows = [[logps[row][column] for row, column in (*places[i], (0, 0))[:2]] for i in range(len(RESPONSES))]
        return torch.stack([torch.stack(row) for row in rows])

    new, reference = tokens(logits), tokens(base)
    rewards = token_rewards(world.rewards[0].double(), new.detach() - reference, mask, beta=0.5)
    worth, _ = losses.gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    (found.exp()[:, None] * worth * new * mask).sum().backward()
    slope = max(float(part.grad.abs().max()) for part in logits)
    assert least <= slope < most


@pytest.mark.parametrize(
    ("method", "at_the_boundary"), [(APOZero(), True), (APODown(), True), (DPOPositive(penalty=0.3), False)]
)
def test_the_least_of_some_losses_leaves_responses_no_chance(world, method, at_the_boundary):
    """Of which none had less than e^-10 to begin with: such a goal is no distance that training could have to keep."""
    found = goals.least_loss(world, Fields(method))
    assert (float(found.min()) < -100) == at_the_boundary and float(world.reference_logps.min()) > -10
    assert (type(method).goal == "boundary") == at_the_boundary


def test_the_least_hinge_is_least_on_every_side(world):
    """It is convex, so a table from which no step in any direction leads down is the least; L-BFGS stops before it.

    In a linear program of differences the solution lies on the margin's grid: every two log-ratios differ by a
    multiple of 1 / beta.
    """
    hinge = Hinge(beta=0.5)
    found = optimum(world, hinge)
    ratios = found - world.reference_logps
    first, second = map(list, zip(*itertools.permutations(range(len(RESPONSES)), 2), strict=True))

    def loss(h):
        margins = h[:, first] - h[:, second]
        return float((world.wins[:, first, second] * (1 - 0.5 * margins).clamp(min=0)).sum())

    steps = ((ratios - ratios[:, :1]) / 2).numpy()
    assert steps == pytest.approx(steps.round(), abs=1e-6) and steps.max() - steps.min() > 1
    torch.manual_seed(0)
    for p, i in itertools.product(range(len(PROMPTS)), range(len(RESPONSES))):
        step = torch.zeros_like(ratios)
        step[p, i] = 1e-3
        assert min(loss(ratios + step), loss(ratios - step)) > loss(ratios) + 1e-6
    for _ in range(200):
        assert loss(ratios + 1e-3 * torch.randn_like(ratios)) > loss(ratios) + 1e-6
    with pytest.raises(
        InputError, match="the least of Own's loss was not found.*kinks needs a goal of its own, as hinge"
    ):
        optimum(world, Own(of=hinge.loss))


def test_the_loss_of_trls_orpo_has_no_slope_at_its_optimum(world):
    """All labels as one batch: the NLL a mean over all tokens but each prompt's first, the odds ratio one over pairs.

    Where each reply has its own length as the divisor, as in `orpo`, there is a slope.
    """

    def slope(found):
        tables = [logits_of(found[p]) for p in range(len(PROMPTS))]
        logits = [[part.clone().requires_grad_() for part in table] for table, _ in tables]
        nll = odds = torch.zeros((), dtype=torch.float64)
        tokens = labels = 0.0
        for p, (_, places) in enumerate(tables):
            logps = [
                torch.stack([logits[p][row].log_softmax(0)[column] for row, column in places[i]]).sum()
                for i in range(len(RESPONSES))
            ]
            means = torch.stack([logp / (2 if text else 1) for logp, text in zip(logps, RESPONSES, strict=True)])
            log_odds = (means.exp() / (1 - means.exp())).log()
            for i, j in itertools.permutations(range(len(RESPONSES)), 2):
                share = 1 / (1 + math.exp(float(world.rewards[p, j] - world.rewards[p, i])))
                nll = nll - share * logps[i]
                tokens += share * (1 + (2 if RESPONSES[i] else 1))
                odds = odds - share * F.logsigmoid(log_odds[i] - log_odds[j])
                labels += share
        (nll / tokens + 0.1 * odds / labels).backward()
        return max(float(part.grad.abs().max()) for table in logits for part in table)

    assert slope(optimum(world, TRLORPO())) < 1e-6
    assert slope(optimum(world, ORPO(nll_scope="prompt+response"))) > 1e-3


def test_chosen_replies_are_those_of_the_labels(world):
    pairs = world.pair_dataset(seed=0).pairs
    counts = Counter((p.prompt.id, p.chosen) for p in pairs)
    wanted = optimum(world, SFTChosen()).exp()
    for p, prompt in enumerate(world.prompts):
        for i, response in enumerate(world.responses):
            share = counts[prompt.id, response] / (len(pairs) / len(PROMPTS))
            assert share == pytest.approx(float(wanted[p, i]), abs=0.0014)


def test_every_method_says_what_it_aims_at_or_nothing():
    """Names and needed fields are right for all that is registered here, so that a check finds no surprise."""
    for name, entry in available("methods").items():
        if not is_ours(entry.module):
            continue
        cls = load("methods", name)
        goal = getattr(cls, "goal", "")
        assert goal in GOALS, name


def test_every_row_begins_far_from_its_goal(world):
    """As they are checked, all methods of this package have to go a part of a nat at least."""
    for name, entry in available("methods").items():
        if not is_ours(entry.module) or name.startswith("trl-"):
            continue
        method = load("methods", name)(**checking.settings_of(name))
        goal = goal_of(type(method))
        if goal is None or goal.optimum is None:
            continue
        reference = world.logps(world.reference, getattr(method, "temperature", 1.0))
        assert off(world, reference, optimum(world, method)) > 0.2, name


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (PPO(gamma=0.9), "gamma is 0.9"),
        (PPO(kl_estimator="k3"), "kl_estimator is k3"),
        (PPO(target_kl=2.0), "target_kl is 2.0"),
        (RLOO(beta=0.0), "beta is 0"),
        (PPO(lam=0.5, temperature=2.0, normalize_reward=True), ""),
        (GRPO(), ""),
    ],
)
def test_settings_with_which_the_optimum_is_not_known(method, said):
    goal = goal_of(type(method))
    assert goal is not None and unknown_with(goal, method) == said


def test_best_of_n_is_exact(world):
    """Against 200,000 draws of the best of 3 at the first prompt: every share within 4.5 standard errors."""
    chances = optimum(world, BestOfN(n=3))[0].exp()
    torch.manual_seed(0)
    draws = torch.multinomial(world.reference_logps[0].exp(), 600_000, replacement=True).view(-1, 3)
    rewards = world.rewards[0]
    best = draws.gather(1, rewards[draws].argmax(1, keepdim=True))[:, 0]
    shares = torch.bincount(best, minlength=len(RESPONSES)) / len(best)
    errors = (chances * (1 - chances) / len(best)).sqrt() + 1e-6
    assert float(chances.sum()) == pytest.approx(1.0, rel=1e-5)
    assert ((shares - chances).abs() / errors).max() < 4.5
