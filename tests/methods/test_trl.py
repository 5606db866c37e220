"""TRL's trainers behind our interface: the same losses, gradients and ends as ours, and a sentence where TRL is not."""

import json
import sys

import pytest
from safetensors.torch import load_file

from alignment_bench.errors import TrainingError
from alignment_bench.methods import online
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.grpo import GRPO
from alignment_bench.methods.kto import KTO
from alignment_bench.methods.orpo import ORPO
from alignment_bench.methods.rloo import RLOO
from alignment_bench.methods.trl_offline import TRLDPO, TRLKTO, TRLORPO
from alignment_bench.methods.trl_online import TRLGRPO, TRLRLOO
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampler import Sample
from alignment_bench.results.records import Pair, Prompt
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

PROMPT = ({"role": "user", "content": "?"},)
PROMPTS = [Prompt(f"p{i}", PROMPT, (0, 10 + i, 11)) for i in range(12)]
PAIRS = [
    Pair(f"r{i}", prompt, chosen=(20 + i, 21, 1), rejected=(40, 41 + i, 42, 43, 1)) for i, prompt in enumerate(PROMPTS)
]


def make_task(sft, tuning, out, examples=32):
    out.mkdir()

    def reference():
        frozen = Policy.open(sft, tuning, trainable=False)
        return tuple(
            frozen.total_logps([(p.prompt.ids, getattr(p, side)) for p in PAIRS]) for side in ("chosen", "rejected")
        )

    def reward(generations):
        return [float(sum(c.islower() for c in g.response)) for g in generations]

    pairs = PairDataset(PAIRS, reference)
    return TrainingTask(sft, pairs, PromptDataset(PROMPTS, 6), reward, Budget(examples), 0, out, tuning)


def read_steps(task):
    rows = [json.loads(line) for line in (task.out / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


def distances(sft, ours, theirs):
    """The distance of ours from SFT, and of theirs from ours at the end."""
    before, mine, trls = (load_file(folder / "model.safetensors") for folder in (sft.path, ours.path, theirs.path))
    moved = sum(float(((mine[name] - before[name]) ** 2).sum()) for name in mine) ** 0.5
    return moved, sum(float(((mine[name] - trls[name]) ** 2).sum()) for name in mine) ** 0.5


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (DPO, TRLDPO, {"beta": 0.3}),
        (ORPO, TRLORPO, {"weight": 0.5, "nll_scope": "prompt+response"}),  # rows of one length: TRL's mean is ours
        (KTO, TRLKTO, {"beta": 0.5, "undesirable_weight": 1.3}),
    ],
    ids=["dpo", "orpo", "kto"],
)
def test_losses_gradients_and_ends_are_those_of_trl(ours, theirs, settings, tiny, full, tmp_path):
    """Eight steps of full fine-tuning with warm-up, decay and clipping; rows, order and schedule are the same.

    Losses and gradient norms of the first step to 1e-4 (later ones carry Adam's amplified rounding), the ends by less
    than 2% of the way.
    """
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    settings |= {"lr": 1e-3, "batch_size": 4, "warmup": 0.25, "weight_decay": 1.0}
    tasks = [make_task(tiny, full, tmp_path / name) for name in ("ours", "theirs")]
    ends = [ours(**settings).train(tasks[0]), theirs(**settings).train(tasks[1])]
    steps = [read_steps(task) for task in tasks]
    assert len(steps[0]) == len(steps[1]) == 8
    assert steps[0][0] == pytest.approx(steps[1][0], rel=1e-4)
    for mine, trls in zip(*steps, strict=True):
        assert mine == pytest.approx(trls, rel=2e-2)
    moved, apart = distances(tiny, *ends)
    assert apart < 0.02 * moved
    costs = [json.loads((task.out / "cost.json").read_text()) for task in tasks]
    assert costs[0]["examples"] == costs[1]["examples"] == 32
    assert costs[0]["trained_tokens"] == costs[1]["trained_tokens"]


@pytest.mark.parametrize(("ours", "theirs"), [(RLOO, TRLRLOO), (GRPO, TRLGRPO)], ids=["rloo", "grpo"])
def test_online_losses_and_gradients_are_those_of_trl(ours, theirs, tiny, full, tmp_path, monkeypatch):
    """The same responses are put in place of what both would sample; two epochs a round, so that ratios leave 1."""
    trl = pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")

    def responses(count):
        """Letters that differ within a group and between prompts; every third is cut before its EOS."""
        return [(97 + i % 7, *([98 + i % 3] * (i % 4)), *([1] if i % 3 else [55])) for i in range(count)]

    def given(policy, prompts, **others):
        return [Sample(p, ids, ids[-1] == 1) for p, ids in zip(prompts, responses(len(prompts)), strict=True)]

    monkeypatch.setattr(online, "sample", given)

    def generate(self, prompt_ids, *others):
        rows = [list(row) for row in responses(len(prompt_ids))]
        return rows if isinstance(self, trl.RLOOTrainer) else (rows, None)  # the shape that this trainer returns

    for trainer in (trl.RLOOTrainer, trl.GRPOTrainer):
        monkeypatch.setattr(trainer, "_generate_single_turn", generate)
    settings = {"lr": 1e-3, "rollout_size": 16, "minibatch_size": 16, "epochs": 2, "beta": 0.2, "warmup": 0.0}
    tasks = [make_task(tiny, full, tmp_path / name, examples=48) for name in ("ours", "theirs")]
    ends = [ours(**settings).train(tasks[0]), theirs(**settings).train(tasks[1])]
    logs = [read_steps(task) for task in tasks]
    assert len(logs[0]) == 3 and len(logs[1]) == 6  # ours logs a round, TRL a step
    for round_number, mine in enumerate(logs[0]):
        both = logs[1][2 * round_number : 2 * round_number + 2]
        mean = [sum(values) / 2 for values in zip(*both, strict=True)]
        assert mine == pytest.approx(mean, rel=1e-4 if round_number == 0 else 2e-2, abs=1e-4)
    moved, apart = distances(tiny, *ends)
    assert apart < 0.02 * moved
    costs = [json.loads((task.out / "cost.json").read_text()) for task in tasks]
    for key in ("examples", "reward_queries", "trained_tokens"):
        assert costs[0][key] == costs[1][key]


def test_trl_under_lora_keeps_to_the_budget_and_saves_an_adapter(tiny, tmp_path):
    pytest.importorskip("trl", reason="TRL is not installed (pip install '.[test]')")
    from alignment_bench.models.checkpoint import Checkpoint
    from alignment_bench.models.tuning import Tuning

    tuning = Tuning(lora_rank=4, lora_alpha=8.0, precision="fp32", device="cpu")
    for cls in (TRLDPO, TRLORPO, TRLKTO):
        task = make_task(tiny, tuning, tmp_path / cls.__name__, examples=8)
        found = cls(lr=1e-3, batch_size=4).train(task)
        assert (found.path / "adapter_model.safetensors").exists()
        assert Policy.open(Checkpoint(found.path, ""), tuning, trainable=False).total_logps([((0, 10), (20, 1))]) < 0
        assert json.loads((task.out / "cost.json").read_text())["examples"] == 8


def test_without_trl_one_sentence_says_so(tiny, full, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(TrainingError, match="TRL is not installed; pip install trl"):
        TRLDPO().train(make_task(tiny, full, tmp_path / "t"))
