"""The known-optimum world: its distances against listing by other means, and what `bench check` finds."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from alignment_bench.benchmarks.cli.main import app
from alignment_bench.benchmarks.selfcheck import check as checking
from alignment_bench.benchmarks.selfcheck.optimum import BETA, LETTERS, PROMPTS, RESPONSES, OptimumWorld
from alignment_bench.errors import InputError
from alignment_bench.models.checkpoint import Checkpoint
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
    """All probabilities sum to 1; KL(ref || pi*) and the objective, in plain Python from the definition of pi*."""
    kls, regrets = [], []
    for p, listed in enumerate(listed_logps(world)):
        assert sum(math.exp(x) for x in listed.values()) == pytest.approx(1.0, abs=1e-5)
        rewards = dict(zip(RESPONSES, world.rewards[p].tolist(), strict=True))
        total = sum(math.exp(x + rewards[text] / BETA) for text, x in listed.items())
        best = {text: x + rewards[text] / BETA - math.log(total) for text, x in listed.items()}
        kls.append(sum(math.exp(x) * (x - best[text]) for text, x in listed.items()))
        highest = sum(math.exp(b) * (rewards[text] - BETA * (b - listed[text])) for text, b in best.items())
        regrets.append(highest - sum(math.exp(x) * rewards[text] for text, x in listed.items()))
    found = world.distance(world.reference)
    assert found.kl_to_optimum == pytest.approx(sum(kls) / 4, rel=1e-4)
    assert found.regret == pytest.approx(sum(regrets) / 4, rel=1e-4)
    assert found.kl_to_reference == pytest.approx(0.0, abs=1e-5)
    assert found.regret == pytest.approx(BETA * found.kl_to_optimum, rel=1e-4)  # a theorem, for any policy
    assert found.kl_to_optimum > 2.0


def test_labels_follow_bradley_terry(world):
    """Wins of the better answer over all pairs: the expected count and its deviation from the sampled chances."""
    pairs = world.pair_dataset(seed=3).pairs
    column = {answer: i for i, answer in enumerate(world.responses)}
    row = {prompt.id: i for i, prompt in enumerate(world.prompts)}
    wins = expected = variance = 0.0
    for pair in pairs:
        rewards = world.rewards[row[pair.prompt.id]]
        margin = float(rewards[column[pair.chosen]] - rewards[column[pair.rejected]])
        chance = 1 / (1 + math.exp(-abs(margin)))
        wins += margin > 0
        expected += chance
        variance += chance * (1 - chance)
    assert abs(wins - expected) < 4 * math.sqrt(variance)


def test_reward_reads_text(world):
    """EOS at once is the first of the list, then seven letters, then the pairs: "b d" is number 8 + 7 + 3."""

    def generation(response):
        return Generation("c d", ({"role": "user", "content": "c d"},), response, 2, True)

    found = world.reward([generation(""), generation("b"), generation("b d")])
    assert found == pytest.approx([float(world.rewards[1][i]) for i in (0, 2, 18)])


def test_ipo_optimum_is_where_the_expected_loss_has_no_slope(world):
    utility = (world.ipo_optimum(0.5) - world.reference_logps)[0].clone().requires_grad_()
    margin = utility[:, None] - utility[None]
    chance = torch.sigmoid(world.rewards[0][:, None] - world.rewards[0][None]).double()
    (chance * (margin - 1.0) ** 2).sum().backward()  # 1 / (2 beta) = 1
    assert utility.grad.abs().max() < 1e-3


@pytest.mark.parametrize(("name", "left"), [("dpo", 0.7), ("rloo", 0.2), ("ppo", 0.1)])
def test_check_nears_the_optimum_with_a_small_part_of_the_budget(name, left):
    """A 32nd of the budget leaves only a share of the way; the full budget takes a minute and more."""
    report = checking.check(name, shares=(1 / 32,))
    assert report.curve[-1][1].kl_to_optimum < left * report.start.kl_to_optimum
    assert [f.name for f in report.findings if not f.passed] == []


class Careless:
    """A method that breaks its promises: it writes into the SFT checkpoint, and saves it as its policy, unlearnt."""

    def train(self, task):
        for file in task.sft.path.iterdir():
            target = task.out / "policy" / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
        (task.sft.path / "trace.txt").write_text("here")
        return Checkpoint(task.out / "policy", "")


def test_check_tells_what_a_careless_method_breaks(monkeypatch):
    monkeypatch.setattr(checking, "load", lambda group, name: Careless)
    monkeypatch.setattr(checking, "build", lambda *a: Careless())
    report = checking.check("careless", shares=(1 / 64,))
    broken = {f.name for f in report.findings if not f.passed}
    assert {
        "another seed, other weights",
        "leaves the SFT checkpoint alone",
        "learns",
        "stops at its budget",
        "counts its costs",
        "logs",
    } <= broken
    assert not report.passed


def test_check_refuses_an_unknown_setting():
    with pytest.raises(InputError, match="dpo has no parameter 'bta'; did you mean 'beta'"):
        checking.check("dpo", {"bta": 1.0})


def test_best_of_n_is_exact(world):
    """Against 200,000 draws of the best of 3 at the first prompt: every share within 4.5 standard errors."""
    chances = world.best_of_logps(3)[0].exp()
    torch.manual_seed(0)
    draws = torch.multinomial(world.reference_logps[0].exp(), 600_000, replacement=True).view(-1, 3)
    rewards = world.rewards[0]
    best = draws.gather(1, rewards[draws].argmax(1, keepdim=True))[:, 0]
    shares = torch.bincount(best, minlength=len(RESPONSES)) / len(best)
    errors = (chances * (1 - chances) / len(best)).sqrt() + 1e-6
    assert float(chances.sum()) == pytest.approx(1.0, rel=1e-5)
    assert ((shares - chances).abs() / errors).max() < 4.5


def test_check_of_best_of_n_on_the_command_line():
    done = CliRunner().invoke(app, ["check", "best_of_n", "--set", "n=8", "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["passed"] and found["settings"] == {"n": 8}
    assert found["kl_to_optimum"] == found["curve"][0]["kl_to_optimum"] > 0
    assert found["reward"] > found["start"]["reward"]
    assert "leaves the SFT checkpoint alone" in [f["name"] for f in found["findings"]]
    wrong = CliRunner().invoke(app, ["check", "best_of_n", "--set", "n"])
    assert isinstance(wrong.exception, InputError) and "FIELD=VALUE" in str(wrong.exception)
