"""Evaluators of another package are given what their classes say they need, as our own are."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from alignment_bench.benchmarks.data.corpus import WORLD_SEED
from alignment_bench.benchmarks.definition.spec import load_spec
from alignment_bench.benchmarks.harness import run as run_harness
from alignment_bench.benchmarks.plan import plan
from alignment_bench.benchmarks.request import Request
from alignment_bench.benchmarks.world import preference_rows
from alignment_bench.errors import InputError
from alignment_bench.results.store import Store, folder_digest

MODULE = '''
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment_bench.evaluators.judge import Judge
from alignment_bench.evaluators.reward_model import RewardModelWinRate
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import LabelledPair, Score

SEEN = {}


@dataclass(frozen=True)
class Pairs:
    """The number of pairs that it is given."""

    pairs: Sequence[LabelledPair]

    needs_pairs = True

    def score(self, responses, baseline):
        SEEN["pairs"] = list(self.pairs)
        return [Score("pairs", r.prompt_id, float(len(self.pairs))) for r in responses]


class Doubled:
    """Twice the reward, also along training; no dataclass."""

    needs_reward_model = True
    has_rewards = True
    scores_along = ("reward.doubled",)

    def __init__(self, model: str, tuning: Tuning | None = None, device: str = "auto"):
        self.model, self.tuning, self.device = model, tuning, device

    def rewards(self, generations):
        SEEN["reward_model"] = self.model, self.tuning, self.device
        return [2 * r for r in RewardModelWinRate(self.model, self.tuning, self.device).rewards(generations)]

    def compare(self, responses, rewards, baseline):
        return [Score("reward.doubled", g.prompt_id, value) for g, value in zip(responses, rewards)]


@dataclass(frozen=True)
class Moved:
    """How much likelier the policy finds chosen replies than SFT does."""

    pairs: Sequence[LabelledPair] = ()

    needs_policy = True
    needs_pairs = True

    def score(self, responses, baseline, *, policy, reference):
        texts = [(pair.prompt, pair.chosen) for pair in self.pairs]
        for pair, ours, theirs in zip(self.pairs, policy.logps(texts), reference.logps(texts)):
            yield Score("moved", pair.prompt_id, ours - theirs)


@dataclass(frozen=True)
class Asking:
    """What it is given to ask models with."""

    model: str | tuple[str, ...]
    words: str = "few"
    colour: str = "red"
    device: str = "auto"
    cache: Path | None = None

    asks_models = True
    determined_by = ("words",)

    @property
    def models(self):
        return (self.model,) if isinstance(self.model, str) else self.model

    def score(self, responses, baseline):
        SEEN["asking"] = self
        return [Score("asking", r.prompt_id, 1.0) for r in responses]


class Strict(Judge):
    """A judge of another name."""
'''
CLASSES = {"pairs_of": "Pairs", "doubled": "Doubled", "moved": "Moved", "asking": "Asking", "strict": "Strict"}
ENTRIES = "".join(f"{name} = evaluators_of_others:{cls}\n" for name, cls in CLASSES.items())
JUDGE = {"model": "builtin/judge_model", "prompt": "compact"}
EVALUATORS = {
    "pairs_of": {}, "doubled": {}, "moved": {}, "strict": JUDGE,
    "asking": {"model": "builtin/judge_model", "words": "many", "colour": "blue"},
}  # fmt: skip


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The module of a package that is installed meanwhile."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "evaluators_of_others.py").write_text(MODULE)
    (info := folder / "evaluators_of_others-1.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evaluators-of-others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[alignment_bench.evaluators]\n{ENTRIES}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import evaluators_of_others

        yield evaluators_of_others
    del sys.modules["evaluators_of_others"]


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_tiny):
    folder = tmp_path_factory.mktemp("work")
    make_tiny(folder / "model", std=0.05)
    return folder


@pytest.fixture(scope="module")
def request_of(work, write_tiny):
    """request_of(evaluators): a run of dpo on a tiny benchmark with these evaluators beside the reward model."""

    def request(evaluators):
        path = write_tiny(
            work, model=str(work / "model"), max_response_tokens=40, evaluation={"along": 1, "prompts": 4},
            evaluators={"gold": None, "length": None, **evaluators},
        )  # fmt: skip
        return Request(load_spec(str(path)), ("dpo",), 1, work / "results", device="cpu")

    return request


@pytest.fixture(scope="module")
def outcome(others, request_of):
    found = run_harness(request_of(EVALUATORS))
    assert found.failures == {}
    return found


def values(cell, metric):
    scores = cell.scores()
    return scores[scores["metric"] == metric].sort_values("prompt_id")["value"].tolist()


def test_one_that_needs_pairs_gets_those_held_out(others, outcome):
    pairs, record = others.SEEN["pairs"], outcome.run.record["data"]
    assert len(pairs) == record["splits"]["heldout"]["pairs"] > 0
    known = [(row["prompt"], *texts(row)) for row in preference_rows(120, seed=WORLD_SEED)]
    assert all((list(pair.prompt), pair.chosen, pair.rejected) in known for pair in pairs)


def texts(row):
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


def test_one_that_needs_the_reward_model_gets_the_one_that_evaluates(others, outcome, work):
    """Its own `evaluation`, and not the one that methods are trained on; along training as well."""
    model, tuning, _ = others.SEEN["reward_model"]
    assert tuning is not None and folder_digest(Path(model)) == folder_digest(reward_model(work, "evaluation"))
    for cell in outcome.run.cells():
        assert values(cell, "reward.doubled") == pytest.approx([2 * v for v in values(cell, "reward.reward_model")])
        assert values(cell, "reward.doubled") != pytest.approx(
            [2 * v for v in values(cell, "reward.reward_model.training")]
        )
    [along] = [cell.along() for cell in outcome.run.cells() if cell.method == "dpo"]
    tables = {metric: part["value"].to_numpy() for metric, part in along.groupby("metric")}
    assert set(tables) == {"kl", "reward.training", "reward.reward_model", "reward.doubled"}
    assert tables["reward.doubled"] == pytest.approx(2 * tables["reward.reward_model"])


def test_one_that_needs_the_policy_gets_it_and_sft(outcome):
    cells = {cell.method: values(cell, "moved") for cell in outcome.run.cells()}
    assert len(cells["sft"]) == outcome.run.record["data"]["splits"]["heldout"]["pairs"]
    assert set(cells["sft"]) == {0.0} and 0.0 not in cells["dpo"] and len(cells["dpo"]) == len(cells["sft"])


def test_one_that_asks_models_gets_their_folders_a_device_and_a_cache(others, outcome, work):
    given = others.SEEN["asking"]
    assert len(given.model) == 1 and given.model[0].endswith("judge_model") and given.model[0].startswith("/")
    assert (given.device, given.cache, given.colour) == ("cpu", Store(work / "results").verdicts, "blue")
    found = next(iter(outcome.run.cells())).evaluators()["asking"]
    assert found == {
        "words": "many",
        "model": ["builtin/judge_model"],
        "weights": {"builtin/judge_model": folder_digest(Path(given.model[0]))},
    }


def test_a_judge_of_another_name_is_the_runs_judge(outcome, request_of):
    """Four different prompts in both orders, at most: a response that is SFT's is not asked about."""
    found = outcome.summary["judges"]
    assert found["usage"].keys() == {"judge_model"} and 0 < found["usage"]["judge_model"]["verdicts"] <= 8
    assert found["audit"]
    asked = {p.step.cell: p.estimate for p in plan(replace(request_of(EVALUATORS), seeds=2)).steps if p.step.asks}
    assert {cell: estimate.basis for cell, estimate in asked.items()} == {
        ("sft", 0): "asked before", ("dpo", 0): "asked before",
        ("sft", 1): "nothing to ask", ("dpo", 1): "measured, 1 earlier",
    }  # fmt: skip
    assert asked["dpo", 0].seconds == 0 < asked["dpo", 1].seconds
    with pytest.raises(InputError, match="strict and judge would both be the judge; name one of them"):
        run_harness(request_of({"strict": JUDGE, "judge": JUDGE}))


def test_a_model_of_ones_own_goes_before_the_benchmarks(others, outcome, request_of, work):
    own = work / "own"
    own.symlink_to(reward_model(work, "evaluation"))
    again = run_harness(request_of({"doubled": {"model": str(own)}}))
    assert others.SEEN["reward_model"] == (str(own.resolve()), None, "cpu")
    assert again.run.record["contract"]["evaluated_by"] == folder_digest(own)
    assert "evaluated_by" not in outcome.run.record["contract"]
    training = str(reward_model(work, "training"))
    with pytest.raises(InputError, match="is the reward model that the methods are trained on"):
        run_harness(request_of({"doubled": {"model": training}}))
    with pytest.raises(InputError, match=r"^evaluators.doubled.model nowhere/there: there is no such folder"):
        run_harness(request_of({"doubled": {"model": "nowhere/there"}}))


def reward_model(work, role):
    """The folder of one of the benchmark's reward models: the training one's seed is 1, the other's 2."""
    seed = {"training": 1, "evaluation": 2}[role]
    for manifest in (work / "results/cache/reward_model").glob("*/manifest.json"):
        if json.loads(manifest.read_text())["inputs"]["seed"] == seed:
            return manifest.parent / "model"
