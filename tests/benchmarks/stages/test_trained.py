"""SFT as a stage: which replies it imitates, and that a short reply does not weigh more than a long one; best-of-n."""

import json
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.definition.rows import method_settings
from alignment_bench.benchmarks.definition.spec import RewardModels, Supervised, SupervisedFineTuning, load_spec
from alignment_bench.benchmarks.selfcheck.passes import counted
from alignment_bench.benchmarks.stages.gates import reward_model_gate
from alignment_bench.benchmarks.stages.responses import generate
from alignment_bench.benchmarks.stages.trained import (
    drawn_places,
    pair_dataset,
    reference,
    train_cell,
    train_reward_model,
    train_sft,
)
from alignment_bench.evaluators.reward_model import RewardModelWinRate
from alignment_bench.methods.dpo import DPO
from alignment_bench.models.chat import encode_prompt, encode_response
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.policy import Policy
from alignment_bench.models.reward_model import RewardModel
from alignment_bench.models.sampler import to_generations
from alignment_bench.models.sampling import Choice, sample
from alignment_bench.results.records import Generation, Pair, Prompt, RatedReply
from alignment_bench.results.store import (
    GENERATIONS,
    INFERENCE,
    METRICS,
    MODEL,
    Store,
    read_generations,
    read_json,
    read_jsonl,
)
from alignment_bench.training.task import PromptDataset, shuffled

PROMPT = Prompt("p", ({"role": "user", "content": "?"},), (0, 10, 11))
SHORT, LONG = (20, 1), (30, *range(40, 70), 1)  # ids; 1 is EOS


def first_token_logps(tmp_path, tiny, full, replies: str, demonstrations=()) -> tuple[float, float]:
    """Train on one pair with SFT; log-probs of the first token of the chosen (short) and the rejected (long) reply."""
    pairs = [Pair("x", PROMPT, chosen=SHORT, rejected=LONG)]
    settings = SupervisedFineTuning(examples=480, lr=3e-3, batch_size=4, replies=replies)
    stage = train_sft(Workshop(Store(tmp_path), full, {}), tiny, settings, pairs, pairs, demonstrations)
    policy = Policy.open(Checkpoint(stage.path / MODEL, ""), full, trainable=False)
    short, long = policy.total_logps([(PROMPT.ids, SHORT[:1]), (PROMPT.ids, LONG[:1])])
    return float(short), float(long)


def test_both_replies_weigh_the_same_whatever_their_length(tmp_path, tiny, full):
    """Each reply is shown equally often, so each first token has probability 1/2; with a mean over each reply's own
    tokens the short one's would weigh 32 / 2 = 16 times as much, and have 16/17."""
    short, long = first_token_logps(tmp_path, tiny, full, "both")
    assert abs(math.exp(short) - 0.5) < 0.1
    assert abs(math.exp(long) - 0.5) < 0.1


def test_demonstrations_take_the_place_of_the_pairs_replies(tmp_path, tiny, full):
    shown = RatedReply("d", PROMPT, LONG, good=True)
    short, long = first_token_logps(tmp_path, tiny, full, "chosen", [shown])
    assert math.exp(long) > 0.9 and math.exp(short) < 0.02


def test_chosen_replies_only(tmp_path, tiny, full):
    short, long = first_token_logps(tmp_path, tiny, full, "chosen")
    assert math.exp(short) > 0.95
    assert math.exp(long) < 0.02


class Ledgered:
    """A method whose training went on after an interruption, and says how long it took in all."""

    def __init__(self, said):
        self.said = said

    def train(self, task):
        task.made.path.mkdir()
        (task.out / "cost.json").write_text(json.dumps(self.said))
        return task.made


@pytest.mark.parametrize(("said", "low", "high"), [({"seconds": 91.0}, 91.0, 91.0), ({"examples": 4}, 0.0, 60.0)])
def test_a_cell_costs_what_its_ledger_says_and_else_the_time_that_passed(tmp_path, tiny, full, said, low, high):
    shop = Workshop(Store(tmp_path), full, {})
    given = {"base": tiny, "sft": tiny, "reward_model": tiny, "unpaired": (), "budget": 4, "seed": 0}
    pairs, prompts = pair_dataset(shop, tiny, []), PromptDataset([], 8)
    stage = train_cell(shop, "x", Ledgered(said), **given, pairs=pairs, prompts=prompts, reward=lambda: None)
    assert low <= stage.cost["seconds"] <= high and said.items() <= stage.cost.items()


def test_reference_log_probs_cost_a_pass_over_both_sides(tmp_path, tiny, full):
    """3 tokens of the prompt with 2 of the short reply and with 32 of the long one: 40; 2 FLOPs a weight each."""
    stage = reference(Workshop(Store(tmp_path), full, {}), tiny, [Pair("x", PROMPT, SHORT, LONG)])
    weights = Policy.open(tiny, full, trainable=False).network.size
    assert stage.cost["scored_tokens"] == 40 and stage.cost["flops"] == 80 * weights
    assert stage.cost["trained_tokens"] == stage.cost["looking_flops"] == 0


def test_reference_log_probs_in_chunks_are_those_of_each_pair(tmp_path, tiny, full, monkeypatch):
    pairs = [Pair(f"x{i}", PROMPT, (*range(20, 21 + i), 1), (*range(90, 99 - i), 1)) for i in range(7)]
    monkeypatch.setattr("alignment_bench.results.lazy.CHUNK", 3)
    chosen, rejected = pair_dataset(Workshop(Store(tmp_path), full, {}), tiny, pairs).reference()
    policy = Policy.open(tiny, full, trainable=False)
    for i, pair in enumerate(pairs):
        expected = policy.total_logps([(pair.prompt.ids, pair.chosen), (pair.prompt.ids, pair.rejected)])
        assert torch.allclose(torch.stack([chosen[i], rejected[i]]), expected, atol=1e-5)


def test_the_reference_reads_the_pairs_that_a_budget_draws(tmp_path, tiny, full):
    """Of 21 pairs two seeds draw 4 each: DPO trains on what is known, to the same end as where all are."""
    pairs = [Pair(f"x{i}", PROMPT, (*range(20, 21 + i % 7), 1), (*range(90, 99 - i % 7), 1)) for i in range(21)]
    shop = Workshop(Store(tmp_path), full, {})
    places = drawn_places(len(pairs), 4, (0, 1))
    firsts = [set(islice(shuffled(len(pairs), seed), 4)) for seed in (0, 1)]
    assert places == sorted(firsts[0] | firsts[1])
    some, every = (pair_dataset(shop, tiny, pairs, given) for given in (places, None))
    for found, known in zip(some.reference(), every.reference(), strict=True):
        assert torch.allclose(found[places], known[places], atol=1e-5)
        assert found.isnan().sum() == len(pairs) - len(places)
    kinds = {made.manifest["inputs"].get("drawn"): made.stage.cost["scored_tokens"] for made in shop.store.made()}
    assert kinds == {n: sum(3 * 2 + len(p.chosen) + len(p.rejected) for p in of) for n, of in (
        (None, pairs), (len(places), [pairs[i] for i in places]))}  # fmt: skip
    given = {"base": tiny, "sft": tiny, "reward_model": None, "unpaired": (), "budget": 4, "seed": 1}
    method, prompts = DPO(lr=1e-3, batch_size=2), PromptDataset([PROMPT], 8)
    logs = []
    for number, data in enumerate((some, every)):
        store = replace(shop, store=Store(tmp_path / str(number)))
        made = train_cell(store, "dpo", method, **given, pairs=data, prompts=prompts, reward=lambda: None)
        logs.append([row["loss"] for row in read_jsonl(made.path / METRICS)])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


@pytest.mark.parametrize(("budget", "seeds"), [(11, (0,)), (21, (0,)), (8, (0, 1, 2)), (100, (0,))])
def test_half_of_the_pairs_or_more_are_all(budget, seeds):
    assert drawn_places(21, budget, seeds) is None


def test_what_the_gate_of_a_reward_model_scored_is_known(tmp_path, tiny, full):
    """Both sides of held-out pairs, one of two prompts: as the saved model scores them, without a pass."""
    tokenizer, texts = tiny.tokenizer(), [("yes", "no, it is not"), ("I cannot say", "blue")]
    asks = [({"role": "user", "content": text},) for text in ("Is the sky blue?", "Why?")]
    prompts = [Prompt(f"p{i}", ask, tuple(encode_prompt(tokenizer, ask))) for i, ask in enumerate(asks)]
    pairs = [
        Pair(f"x{i}", prompts[i], *(tuple(encode_response(tokenizer, text)) for text in sides))
        for i, sides in enumerate(texts)
    ]
    settings = Supervised(examples=8, lr=1e-3, batch_size=2)
    stage = train_reward_model(Workshop(Store(tmp_path), full, {}), tiny, settings, pairs, pairs, seed=1)
    shown = [
        Generation(p.id, p.messages, text, 5, True) for p, sides in zip(prompts, texts, strict=True) for text in sides
    ]
    with counted() as passes:
        found = RewardModelWinRate(str(stage.path / MODEL), full).rewards(shown)
    assert passes.scored == 0
    assert found == pytest.approx(RewardModel.open(stage.path / MODEL, full)(shown), rel=1e-5, abs=1e-5)


def test_a_reward_model_may_start_from_a_model_of_another_size(tmp_path, tiny, full, make_tiny):
    """It has that model's layers and the tokenizer of the SFT checkpoint, whose template made the ids of the pairs."""
    folder = make_tiny(tmp_path / "small", layers=1, template=None)
    pairs, shop = [Pair("x", PROMPT, SHORT, LONG)], Workshop(Store(tmp_path), full, {})
    settings = Supervised(examples=1, lr=1e-3, batch_size=1)
    own, other = (
        train_reward_model(shop, tiny, settings, pairs, pairs, 1, start=start)
        for start in (None, Checkpoint(folder, "small"))
    )
    layers = [read_json(stage.path / MODEL / "config.json")["num_hidden_layers"] for stage in (own, other)]
    assert layers == [2, 1] and own.key != other.key
    again = train_reward_model(shop, tiny, settings, pairs, pairs, 1, start=Checkpoint(folder, "changed"))
    assert again.key not in (own.key, other.key)
    found = RewardModel.open(other.path / MODEL, full)
    assert found.tokenizer.chat_template == tiny.tokenizer().chat_template


def test_a_reward_model_is_trained_as_plain_transformers_train_it(tmp_path, tiny, full):
    """Bradley and Terry's loss on all pairs in each of three steps, AdamW at the rates 1, 2/2 and 1/2 of the peak.

    The start is what a training too slow to move saves. The gate: a tie (one text twice) counts half.
    """
    other = Prompt("q", ({"role": "user", "content": "??"},), (0, 10, 11, 12))
    pairs = [Pair(f"x{i}", (PROMPT, other)[i % 2], (20 + i, *[21] * (i % 3), 1), (30, 31 + i, 1)) for i in range(6)]
    unseen = [*pairs[:3], Pair("tie", other, (40, 1), (40, 1))]

    def trained(name, lr, steps):
        settings = Supervised(examples=6 * steps, lr=lr, batch_size=6)
        shop = Workshop(Store(tmp_path / name), full, {})
        stage = train_reward_model(shop, tiny, settings, pairs, unseen, seed=1)
        model = AutoModelForSequenceClassification.from_pretrained(stage.path / MODEL, num_labels=1).eval()
        return stage, model, read_jsonl(stage.path / METRICS), json.loads((stage.path / "gate.json").read_text())

    def scores(model, pair):
        return [
            model.score(model.model(input_ids=torch.tensor([[*pair.prompt.ids, *ids]])).last_hidden_state[0, -1])[0]
            for ids in (pair.chosen, pair.rejected)
        ]

    _, model, _, _ = trained("start", 1e-30, 1)
    stage, found, log, gate = trained("end", 1e-3, 3)
    model.model.embed_tokens.padding_idx = 1  # as in training, where transformers keep the pad's row, EOS's here, fixed
    before = [p.detach().clone() for p in model.parameters()]
    adam = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for logged, rate in zip(log, (1.0, 1.0, 0.5), strict=True):
        both = [scores(model, pair) for pair in pairs]
        loss = torch.stack([(1 + (rejected - chosen).exp()).log() for chosen, rejected in both]).mean()
        assert logged["loss"] == pytest.approx(loss.item(), rel=1e-3)
        assert logged["accuracy"] == pytest.approx(sum(bool(a > b) for a, b in both) / 6)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.param_groups[0]["lr"] = 1e-3 * rate
        adam.step()
    for one, expected, start in zip(found.parameters(), model.parameters(), before, strict=True):
        assert float((one - expected).abs().mean()) < 1e-2 * float((expected - start).abs().max())
    with torch.no_grad():
        right = [0.5 if a == b else float(a > b) for a, b in (scores(found, pair) for pair in unseen)]
    told = reward_model_gate(stage, "training", 0.5)  # over pairs, of which one prompt has two and the other two
    assert told["value"] == sum(right) / 4 and right[3] == 0.5
    assert [row[0] for row in gate["pairs"]] == ["p", "q", "p", "q"]
    assert [row[3:] for row in gate["pairs"]] == [[2, 3], [3, 3], [4, 3], [2, 2]]


def test_contrast_pairs_come_on_top_of_the_labelled_ones(tmp_path, tiny, full):
    """Of 8 examples at a share of 0.5: 16 are drawn, from two labelled pairs and as many contrast pairs."""
    pairs = [Pair(f"x{i}", Prompt(f"p{i}", (), (0, 10 + i)), (20 + i, 21, 1), (30, 31 + i, 1)) for i in range(2)]
    settings = Supervised(examples=8, lr=1e-3, batch_size=4)
    shop = Workshop(Store(tmp_path), full, {})
    stages = [
        train_reward_model(shop, tiny, settings, pairs, pairs, 1, contrast=share, longest=longest)
        for share, longest in ((0.0, 6), (0.5, 6), (0.0, 7), (0.5, 7))
    ]
    assert [len(read_jsonl(stage.path / METRICS)) for stage in stages[:2]] == [2, 4]
    assert len({stage.key for stage in stages}) == 3 and stages[0].key == stages[2].key
    assert [json.loads((s.path / "gate.json").read_text())["pairs"][1][0] for s in stages[:2]] == ["p1", "p1"]


def test_contrast_pairs_are_for_the_reward_model_that_evaluates():
    settings = RewardModels(examples=60, lr=1e-3, contrast=0.4)
    assert [settings.contrast_of(role) for role in ("training", "evaluation")] == [0.0, 0.4]
    assert [settings.drawn(role) for role in ("training", "evaluation")] == [60, 100]
    both = settings.model_copy(update={"contrast_in_training": True})
    assert both.contrast_of("training") == 0.4


def test_the_gate_of_sft_is_the_loss_a_token_before_and_after(tmp_path, tiny, full):
    pairs = [Pair("x", PROMPT, chosen=SHORT, rejected=LONG), Pair("y", PROMPT, chosen=LONG, rejected=SHORT)]
    settings = SupervisedFineTuning(examples=40, lr=3e-3, batch_size=2, replies="chosen")
    stage = train_sft(Workshop(Store(tmp_path), full, {}), tiny, settings, pairs, pairs)
    expected = []
    for folder in (tiny.path, stage.path / MODEL):
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        each = []
        for ids in (SHORT, LONG):
            with torch.no_grad():
                logps = model(input_ids=torch.tensor([[*PROMPT.ids, *ids]])).logits[0].log_softmax(-1)
            each.append(-sum(float(logps[2 + i, token]) for i, token in enumerate(ids)) / len(ids))
        expected.append(sum(each) / 2)
    gate = json.loads((stage.path / "gate.json").read_text())
    assert [*gate["base"], *gate["sft"]] == pytest.approx(expected, rel=1e-3)
    assert expected[1] < 0.5 * expected[0]


def test_the_best_of_three_is_the_answer(tmp_path, tiny, full):
    """Against sampling the same three by hand; two other settings make other stages."""
    prompts = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), (0, 10 + i, 11)) for i in range(5)]
    shop = Workshop(Store(tmp_path), full, {})

    def answers(choice):
        stage = generate(shop, tiny, tiny, PromptDataset(prompts, 12), temperature=1.0, seed=3, choice=choice)
        spent.append(read_json(stage.path / INFERENCE))
        return stage.key, read_generations(stage.path / GENERATIONS)

    spent = []

    def letters(rows):
        return [float(sum(c.islower() for c in g.response)) for g in rows]

    key, found = answers(Choice(3, lambda: letters, "letters"))
    policy = Policy.open(tiny, full, trainable=False)
    three = to_generations(policy, sample(policy, [p for p in prompts for _ in range(3)], max_new_tokens=12, seed=3))
    assert three[::3] == to_generations(policy, sample(policy, prompts, max_new_tokens=12, seed=3))  # SFT's own row
    assert [g.prompt_id for g in found] == [p.id for p in prompts]
    assert letters(found) == [max(letters(three[3 * i : 3 * i + 3])) for i in range(5)] != letters(three[::3])
    assert {g.kl for g in found} == {math.log(3) - 2 / 3}
    assert len({key, answers(Choice(2, lambda: letters, "letters"))[0], answers(None)[0]}) == 3
    tokens, weights = sum(g.length for g in three), policy.network.size
    of_three, of_two, of_one = ({k: v for k, v in row.items() if k != "seconds"} for row in spent)
    # 15 responses are drawn, and read with their prompts of 3 tokens by the reward model; 2 FLOPs a weight and token
    assert of_three == {
        "responses": 5, "generated_tokens": tokens, "reward_queries": 15, "flops": 2 * weights * (2 * tokens + 15 * 3)
    }  # fmt: skip
    assert of_two["reward_queries"] == 10 and of_one["reward_queries"] == 0
    assert of_one["flops"] == 2 * weights * of_one["generated_tokens"]


def test_a_benchmarks_defaults_reach_every_method_that_has_the_field():
    """DPO has no rollout_size; its own lr goes over the default's; TRL's trainer takes DPO's; best-of-n has neither."""
    spec = load_spec("quick").model_copy(
        update={"method_defaults": {"lr": 0.5, "rollout_size": 7}, "methods": {"dpo": {"lr": 0.25, "beta": 2.0}}}
    )
    assert method_settings(spec, "dpo") == {"lr": 0.25, "beta": 2.0} == method_settings(spec, "trl-dpo")
    assert method_settings(spec, "rloo") == {"lr": 0.5, "rollout_size": 7}
    assert method_settings(spec, "best_of_n") == {}
