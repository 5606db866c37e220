"""vLLM as the sampler: the policy's own distribution, its weights of the moment, and where a response ends."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from scipy import stats
from side_by_side import ENVIRONMENT, RUNTIME, side_by_side
from transformers import LlamaConfig, LlamaForCausalLM

from alignment_bench.errors import InputError
from alignment_bench.methods.rloo import RLOO
from alignment_bench.models import sampler_vllm
from alignment_bench.models.checkpoint import Checkpoint
from alignment_bench.models.layout import Batch
from alignment_bench.models.policy import Policy
from alignment_bench.models.sampling import sample, streams
from alignment_bench.results.records import Prompt
from alignment_bench.training.loop import Optimizer
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask

pytest.importorskip("vllm", reason="vLLM is not installed (it needs an environment of its own where pins differ)")

PROMPTS = [Prompt(str(i), (), (0, 10, 11 + i)) for i in range(40)]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request, tiny, tmp_path_factory):
    """A random Llama with heads as wide as vLLM's kernels need them, that reads 2,100 tokens."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2100,
        initializer_range=0.2,
        tie_word_embeddings=request.param,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return Checkpoint(folder, key="")


@pytest.fixture
def policy(model, tuning):
    """A policy of which every weight (or an adapter that is not the identity) differs from what lies on disk."""
    policy = Policy.open(model, replace(tuning, sampler="vllm"), trainable=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.network.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    yield policy
    policy.network.close()


def gap(policy, samples, temperature):
    """The largest difference of a token's log-prob to what the policy says in a pass over the whole row."""
    with torch.no_grad():
        ours = policy.logps([(s.prompt.ids, s.ids) for s in samples], temperature)
    pairs = zip(samples, ours.values.tolist(), strict=True)
    return max(abs(a - b) for s, row in pairs for a, b in zip(s.logps, row[: len(s.ids)], strict=True))


def test_logps_are_the_policys_own_and_follow_a_training_step(policy):
    """Prompts are long enough for vLLM to keep what it computed of them, which is old after the step."""
    prompts = [Prompt(str(i), (), (0, *range(5 + i, 205 + i))) for i in range(20)]
    before = sample(policy, prompts, max_new_tokens=12, seed=3, temperature=0.7)
    assert all(len(s.logps) == len(s.ids) for s in before)
    assert gap(policy, before, 0.7) < 1e-3
    optimizer = Optimizer(policy.network, lr=0.05, total_steps=2)
    rows = [(s.prompt.ids, s.ids) for s in before]
    whole = Batch(rows, 0, policy.network.lay_out(rows))
    optimizer.step(lambda: [whole], lambda batch: (-policy.logps(batch.layout).sum().mean(), dict))
    after = sample(policy, prompts, max_new_tokens=12, seed=3, temperature=0.7)
    assert gap(policy, before, 0.7) > 0.1  # the step moved the policy
    assert gap(policy, after, 0.7) < 1e-3  # and vLLM moved with it


def test_responses_depend_on_seed_and_index_alone(policy):
    whole = sample(policy, PROMPTS, max_new_tokens=12, seed=3)
    assert [s.prompt for s in whole] == PROMPTS
    how = {"max_new_tokens": 12, "seed": 3, "temperature": 1.0, "top_p": 1.0, "progress": None}
    how["streams"] = streams(PROMPTS)
    assert sampler_vllm.sample(policy, PROMPTS, [13, 2], **how) == [whole[13], whole[2]]
    assert sample(policy, PROMPTS, max_new_tokens=12, seed=4) != whole
    same = sample(policy, [PROMPTS[0]] * 8, max_new_tokens=12, seed=3)
    assert len({s.ids for s in same}) == 8


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_first_tokens_follow_the_distribution(policy, top_p):
    """2,000 first tokens: chi-square against softmax, or the nucleus, of the plain pass."""
    drawn = sample(policy, [PROMPTS[0]] * 2000, max_new_tokens=1, seed=1, top_p=top_p)
    with torch.no_grad():
        logits = policy.logits([(PROMPTS[0].ids, (5,))])[0]
    chances = torch.softmax(logits.double(), -1)
    ordered = chances.sort(descending=True)
    kept = ordered.indices[: int((ordered.values.cumsum(0) < top_p).sum()) + 1] if top_p < 1 else ordered.indices
    chances = torch.zeros_like(chances).index_copy(0, kept, chances[kept] / chances[kept].sum())
    counts = torch.bincount(torch.tensor([s.ids[0] for s in drawn]), minlength=len(chances)).double()
    assert counts[chances == 0].sum() == 0
    likely = 2000 * chances > 5
    found = torch.cat([counts[likely], counts[~likely].sum()[None]])
    expected = torch.cat([2000 * chances[likely], 2000 * chances[~likely].sum()[None]])
    found, expected = found[expected > 1e-9], expected[expected > 1e-9]
    assert stats.chisquare(found.numpy(), expected.numpy()).pvalue > 1e-4


def test_responses_end_with_the_first_eos_or_at_the_limit(policy, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    found = sample(policy, PROMPTS, max_new_tokens=150, seed=3, progress="responses")
    assert "responses: 100%" in capsys.readouterr().err
    assert 0 < sum(s.finished for s in found) < len(found)
    for s in found:
        assert s.finished == (s.ids[-1] == 1)
        assert 1 not in s.ids[:-1]
        assert s.finished or len(s.ids) == 150


def test_longer_rows_get_another_engine(policy):
    """Beyond 1,024 tokens, up to the model's window, and back."""
    for length in (3, 1200, 3):
        prompt = Prompt("long", (), tuple(5 + i % 250 for i in range(length)))
        [found] = sample(policy, [prompt], max_new_tokens=4, seed=0)
        assert gap(policy, [found], 1.0) < 1e-3


def test_random_numbers_of_training_are_left_alone(policy):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    sample(policy, [Prompt("long", (), (5,) * 1200)], max_new_tokens=4, seed=0)  # an engine starts
    assert torch.equal(torch.rand(3), expected)


def test_temperatures_that_vllm_would_change_are_refused(policy):
    with pytest.raises(InputError, match="vLLM samples at temperatures from 0.01; 0.001 needs the sampler torch"):
        sample(policy, PROMPTS, max_new_tokens=4, seed=0, temperature=0.001)


def test_a_method_learns_from_what_vllm_draws(model, tuning, tmp_path):
    """Reward: lower-case letters in the response, as in the tests of the methods themselves."""

    def reward(generations):
        return [float(sum(c.islower() for c in g.response)) for g in generations]

    by_vllm, pairs = replace(tuning, sampler="vllm"), PairDataset([], lambda: None)
    task = TrainingTask(model, pairs, PromptDataset(PROMPTS, 6), reward, Budget(32 * 16), 0, tmp_path, by_vllm)
    RLOO(rollout_size=32, minibatch_size=16, lr=1e-2).train(task)
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rewards) == 16
    # a round's mean has a standard error of about 0.17, so by chance this differs by 0.6 once in 5,000 times
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.6


@pytest.mark.parametrize(
    ("lora_rank", "launched"),
    [(0, {}), (4, {}), (4, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})],
    ids=["full", "lora", "fsdp-lora"],
)
def test_two_processes_draw_what_one_draws(model, lora_rank, launched):
    """Each by its own engine, adapters merged; with FSDP the base under the adapters is divided between the two."""
    alone = [sys.executable, str(RUNTIME / "vllm_processes.py"), str(model.path), str(lora_rank)]
    done = subprocess.run(alone, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=200)
    one = json.loads(done.stdout)
    ended = side_by_side("vllm_processes.py", model.path, lora_rank, **launched)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert not any("Traceback" in said for _, _, said in ended)  # nor at their ends, where engines are ended
    both = [json.loads(out) for _, out, _ in ended]
    assert one.pop("answered") == [5, 1, 5, 1] and one.pop("processes") == 1
    assert one["changed"] != one["several"] and all(len(ids) == 8 for ids in one["several"])
    assert [each.pop("answered") for each in both] == [[3, 1, 3, 1], [2, 2]]
    assert [each.pop("processes") for each in both] == [2, 2]
    assert both == [one, one]


def test_a_run_of_two_processes_draws_by_vllm(model, bench, tmp_path):
    """Training and evaluation; the SFT policy, whose weights are the same to rounding, has the responses of one."""
    spec = {
        "name": "short", "description": "vLLM", "preferences": "builtin/world", "rows": 60, "model": str(model.path),
        "max_prompt_tokens": 150, "max_response_tokens": 60, "budget": 16, "evaluation": {"prompts": 4},
        "sft": {"examples": 16, "lr": 1e-4, "batch_size": 8}, "tuning": {"sampler": "vllm", "lora_rank": 4},
        "reward_model": {"examples": 16, "lr": 1e-3, "batch_size": 8}, "evaluators": {"length": {}},
        "methods": {"rloo": {"lr": 1e-3, "rollout_size": 8, "minibatch_size": 8}},
    }  # fmt: skip
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(spec))
    command = ["run", "-b", str(tmp_path / "short.yaml"), "-m", "rloo", "--device", "cpu", "--gate", "ignore", "--json"]
    one = bench(*command, "--root", str(tmp_path / "one"), cwd=tmp_path)
    ended = side_by_side("alignment_bench", *command, "--root", tmp_path / "two", cwd=tmp_path)
    assert [code for code, _, _ in ended] == [0, 0], ended
    found = [json.loads(out)["methods"]["sft"]["metrics"]["length"]["mean"] for out in (one.stdout, ended[0][1])]
    assert found[0] == found[1] > 0
    assert set(json.loads(ended[0][1])["methods"]) == {"sft", "rloo"}
