"""In bf16 as in fp32 a frozen model says to the last bit what a trainable copy of it says: before the first step every
difference between policy and reference is 0, whoever takes it."""

import dataclasses
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from alignment_bench.benchmarks.context import Workshop
from alignment_bench.benchmarks.stages import open_policy as scoring
from alignment_bench.benchmarks.stages.responses import generate
from alignment_bench.benchmarks.stages.trained import pair_dataset
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.kto import mismatched_log_ratio
from alignment_bench.methods.online import OnlineMethod, OnlineTrainer
from alignment_bench.methods.ppo import PPO
from alignment_bench.models.checkpoint import Checkpoint, open_network
from alignment_bench.models.merging import save_merged
from alignment_bench.models.policy import Policy
from alignment_bench.models.reward_model import RewardModel
from alignment_bench.models.sampling import sample
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.records import Pair, Prompt, rated_replies
from alignment_bench.results.store import GENERATIONS, Store, read_generations
from alignment_bench.training.ledger import Ledger
from alignment_bench.training.probe import Probe
from alignment_bench.training.task import Budget, PairDataset, PromptDataset, TrainingTask, sides_of

SEED = torch.Generator().manual_seed(0)
SHORT, LONG, NEW = 30, 500, 100  # tokens of responses; NEW of those that are sampled
BF16 = Tuning(precision="bf16", device="cpu")


def tokens(count):
    return tuple(torch.randint(2, 259, (count,), generator=SEED).tolist())


SEQUENCES = [(tokens(5), tokens(n)) for n in (SHORT, LONG, 7)]
SEQUENCES.append((SEQUENCES[1][0], tokens(SHORT)))  # to the prompt of the long one
PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), tokens(4 + i)) for i in range(4)]
PAIRS = [Pair(f"r{i}", p, (*tokens(LONG // 2), 1), (*tokens(SHORT), 1)) for i, p in enumerate(PROMPTS)]


def llama(tied):
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=tied, attention_bias=True,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def gpt2():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
    return GPT2LMHeadModel(GPT2Config(vocab_size=259, bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes))


MODELS = {"tied": lambda: llama(True), "untied": lambda: llama(False), "gpt2": gpt2}


@pytest.fixture(scope="module", params=MODELS)
def sft(request, tmp_path_factory, tiny):
    """A model that reads 1,024 tokens, with no weight, norm or bias that bf16 could hold exactly."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = MODELS[request.param]()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.2 * torch.randn_like(weight) + (weight.dim() == 1))
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return Checkpoint(folder, key=request.param)


@pytest.fixture(params=["full", "lora"])
def bf16(request):
    """Full fine-tuning and LoRA, both in bf16 on the CPU, whether or not it has units for it."""
    return dataclasses.replace(BF16, lora_rank=4 if request.param == "lora" else 0, lora_alpha=8.0)


@pytest.fixture
def both(sft, bf16):
    """A policy before its first step, and the reference."""
    policy = Policy.open(sft, bf16, trainable=True)
    yield policy, Policy.open(sft, bf16, trainable=False)
    policy.network.close()


def nudge(network):
    """Move trainable weights to where a training could have left them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters:
            weight.add_(torch.randn_like(weight) * 0.05)


def task_of(sft, tuning, out):
    return TrainingTask(
        sft, PairDataset(PAIRS, lambda: None), PromptDataset(PROMPTS, NEW),
        lambda generations: [float(g.length) for g in generations], Budget(8), 0, out, tuning,
    )  # fmt: skip


# --- one model, frozen and trainable


def test_log_probs_and_kl_of_policy_and_reference(both):
    policy, reference = both
    ours, theirs = policy.logps(SEQUENCES), reference.logps(SEQUENCES)  # ours as in training, with gradients
    assert ours.values.requires_grad and torch.equal(ours.values, theirs.values)
    assert torch.equal(policy.total_logps(SEQUENCES), reference.total_logps(SEQUENCES))
    assert policy.kl(SEQUENCES, reference) == [0.0] * len(SEQUENCES)
    nudge(policy.network)
    assert min(policy.kl(SEQUENCES, reference)) > 0.01  # they can differ


def test_frozen_weights_are_bf16_where_they_are_only_multiplied(sft):
    """The layers' matrices with their biases, and an output layer of its own, but no norm and no embedding."""
    frozen = Policy.open(sft, BF16, trainable=False).network.model
    multiplied = r"\.(c_attn|c_proj|c_fc)\." if sft.key == "gpt2" else r"_proj\.|lm_head"
    for name, weight in frozen.named_parameters():
        assert weight.dtype == (torch.bfloat16 if re.search(multiplied, name) else torch.float32), name
    assert any(name == "lm_head.weight" for name, _ in frozen.named_parameters()) == (sft.key == "untied")
    whole = Policy.open(sft, dataclasses.replace(BF16, precision="fp32"), trainable=False).network.model
    assert {weight.dtype for weight in whole.parameters()} == {torch.float32}


def test_a_reward_model_scores_alike_in_memory_frozen_and_as_a_critic(sft, bf16, tmp_path):
    made = open_network(sft.path, "score", bf16, trainable=True, head_std=0.5)
    nudge(made)
    said = RewardModel(made, sft.tokenizer()).score_all(SEQUENCES)
    made.save(tmp_path / "rm", sft.tokenizer())
    made.close()
    frozen = RewardModel.open(tmp_path / "rm", bf16)
    assert frozen.score_all(SEQUENCES) == said
    task = dataclasses.replace(task_of(sft, bf16, tmp_path), reward_model=Checkpoint(tmp_path / "rm", ""))
    critic = PPO(critic_start="reward_model").open_critic(task)
    assert RewardModel(critic, sft.tokenizer()).score_all(SEQUENCES) == said
    assert all(p.requires_grad for p in critic.parameters) and len(set(said)) == len(said)
    critic.close()
    frozen.network.close()


def test_a_saved_policy_is_what_it_was_in_training(both, bf16, tmp_path):
    policy, _ = both
    nudge(policy.network)
    said = policy.total_logps(SEQUENCES)
    policy.save(tmp_path / "policy")
    for trainable in (True, False):
        again = Policy.open(Checkpoint(tmp_path / "policy", ""), bf16, trainable=trainable)
        assert torch.equal(again.total_logps(SEQUENCES), said)
        assert {p.dtype for p in again.network.parameters if p.requires_grad} <= {torch.float32}
        again.network.close()


def test_a_saved_adapter_comes_back_unrounded(sft, tmp_path):
    tuning = dataclasses.replace(BF16, lora_rank=4)
    network = open_network(sft.path, "lm", tuning, trainable=True)
    nudge(network)
    network.save(tmp_path / "policy", sft.tokenizer())
    again = open_network(tmp_path / "policy", "lm", tuning, trainable=True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters, again.parameters, strict=True))


def test_a_merged_adapter_is_added_to_the_weights_on_disk(sft, tmp_path):
    """W + alpha / rank B A in fp32, W as it lies on disk; all else is W to the last bit."""
    network = open_network(sft.path, "lm", dataclasses.replace(BF16, lora_rank=4, lora_alpha=8.0), trainable=True)
    nudge(network)
    adapters = {name: weight.detach() for name, weight in network.model.named_parameters() if ".lora_" in name}
    save_merged(network, tmp_path)
    stored, merged = (load_file(folder / "model.safetensors") for folder in (sft.path, tmp_path))
    adapted = 0
    for name, before in stored.items():
        path = name.removesuffix(".weight")
        a, b = ([w for n, w in adapters.items() if n.startswith(f"{path}.lora_{side}.")] for side in "AB")
        assert merged[name].dtype == torch.float32
        if a and name != path:
            adapted += 1
            update = 8.0 / 4 * b[0] @ a[0]
            assert torch.allclose(merged[name], before + (update.T if sft.key == "gpt2" else update), atol=1e-6)
        else:
            assert torch.equal(merged[name], before)
    assert adapted == 2 * (4 if sft.key == "gpt2" else 7)  # matrices of two layers


# --- who compares a policy with the reference


def test_methods_on_pairs(sft, both, bf16, tmp_path):
    """Their reference log-probs come from one pass over all pairs, the policy's from one over a batch: sums of what
    lies elsewhere in a pass may be rounded otherwise, where the device does so. Without it all is 0."""
    policy, reference = both
    sides = [side for pair in PAIRS for side in sides_of(pair)]
    chosen, rejected = pair_dataset(Workshop(Store(tmp_path), bf16, {}), sft, PAIRS).reference()
    assert torch.equal(torch.stack([chosen, rejected], 1).flatten(), policy.total_logps(sides))
    task = dataclasses.replace(task_of(sft, bf16, tmp_path), pairs=PairDataset(PAIRS, lambda: (chosen, rejected)))
    objective = DPO().objective(policy, task, None)
    three = [(p.prompt.ids, getattr(p, side)) for side in ("chosen", "rejected") for p in PAIRS[:3]]
    logps = objective.logps_of([objective.examples[i] for i in range(3)], policy.logps(three))
    assert logps.chosen.sum().tolist() == pytest.approx(chosen[:3].tolist(), rel=1e-4)
    assert logps.rejected.sum().tolist() == pytest.approx(rejected[:3].tolist(), rel=1e-4)
    replies = [reply for pair in PAIRS for reply in rated_replies(pair)]
    ledger = Ledger.of(policy.network, tmp_path)
    for one, other in (both, both[::-1]):  # what is below 0 counts as 0
        assert mismatched_log_ratio(one, other, replies, ledger) == 0.0


def test_methods_that_sample(sft, both, bf16, tmp_path):
    """Log-probs of policy and reference are equal; those that the sampler computed are not taken for a pass's."""
    policy, reference = both
    trainer = OnlineTrainer(OnlineMethod(rollout_size=4, temperature=0.7), task_of(sft, bf16, tmp_path), policy)
    samples = sample(policy, PROMPTS, max_new_tokens=NEW, seed=0, temperature=0.7)
    samples = [dataclasses.replace(s, logps=(1.0,) * len(s.ids), values=(1.0,) * len(s.ids)) for s in samples]
    old = trainer.old_logps(samples)
    assert torch.equal(old.values, trainer.logps(reference, [(s.prompt.ids, s.ids) for s in samples]).values)
    assert old.values.max() <= 0 and old.values.sum() < 0


def test_the_probe(sft, both, bf16, tmp_path):
    policy, _ = both
    found = Probe(task_of(sft, bf16, tmp_path), policy, Ledger.of(policy.network, tmp_path), with_samples=True)(1.0)
    assert found["length"] > 20
    assert [found[name] for name in ("kl", "chosen_displacement", "rejected_displacement")] == [0.0, 0.0, 0.0]


def test_the_evaluation(sft, both, bf16, tmp_path):
    """A policy that was saved before its first step; libraries that run the model get the numbers of our passes."""
    policy, _ = both
    policy.save(tmp_path / "policy")
    shop, saved = Workshop(Store(tmp_path / "store"), bf16, {}), Checkpoint(tmp_path / "policy", "saved")
    answers = generate(shop, sft, saved, PromptDataset(PROMPTS, NEW), temperature=1.0, seed=0)
    assert [g.kl for g in read_generations(answers.path / GENERATIONS)] == [0.0] * len(PROMPTS)
    texts = [(p.messages, "because " * (9 + 30 * i)) for i, p in enumerate(PROMPTS)]
    with scoring.opened(shop, sft, saved, scoring.Limits(64, NEW, 1.0)) as opened:
        ours, theirs = (each.logps(texts) for each in opened)
        assert ours == theirs
        prompt, response = SEQUENCES[0]
        places, logits = range(len(prompt) - 1, len(prompt) + len(response) - 1), []
        for each in opened:
            with torch.no_grad():
                logits.append(each.network()[0](torch.tensor([prompt + response])).logits[0])
        assert torch.equal(*logits)
        expected = logits[0].float().log_softmax(-1)[places, response]
        assert torch.allclose(opened[0].policy.logps([SEQUENCES[0]]).values[0], expected, atol=0.05)
