"""Two rounds of TRL's own PPO on a tiny model, recorded for `test_recorded.py`; TRL removed the trainer after 1.12.

python tests/methods/recorded/record_ppo.py    (with trl==1.12.0 importable)

Writes ppo.json: of each round what TRL had (log-probs, values, scores), and of each of its steps the log-probs and
values of that pass with both losses and TRL's gradients with respect to them. Responses have one length: of shorter
ones TRL pays the score a token after the end, which no paper has.
"""

import json
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

ROUND, LENGTH, MINIBATCH = 8, 6, 4
SETTINGS = {"kl_coef": 0.3, "cliprange": 0.05, "cliprange_value": 0.05, "gamma": 0.97, "lam": 0.9, "vf_coef": 0.1}


def small(cls: type, labels: int = 1) -> Any:
    return cls(
        LlamaConfig(
            vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, initializer_range=0.3, pad_token_id=0, bos_token_id=None, eos_token_id=1,
            num_labels=labels,
        )
    )  # fmt: skip


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental import ppo
        from trl.experimental.ppo import ppo_trainer as source

    torch.manual_seed(0)
    words = {"<pad>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 20)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="</s>")), pad_token="<pad>", eos_token="</s>"
    )
    policy = small(LlamaForCausalLM)
    reference = small(LlamaForCausalLM)
    value, reward = (small(LlamaForSequenceClassification) for _ in range(2))
    rounds: list[dict[str, Any]] = []
    passes: list[dict[str, Any]] = []
    real_log_softmax, real_generation = source.selective_log_softmax, source.batch_generation
    real_reward, real_forward = source.get_reward, source.forward

    def generation(model, queries, size, pad, config):
        """Nothing ends a response, and none has the token that pads."""
        config.min_new_tokens = LENGTH
        config.suppress_tokens = [0, 1]
        found = real_generation(model, queries, size, pad, config)
        rounds.append({"logps": [], "values": [], "scores": [], "steps": []})
        return found

    def log_softmax(logits, index):
        found = real_log_softmax(logits, index)
        if found.requires_grad:
            found.retain_grad()
            passes[-1]["new"] = found
        else:
            rounds[-1]["logps"].append(found.tolist())
        return found

    def get_reward(model, ids, pad, context):
        full, score, ends = real_reward(model, ids, pad, context)
        if model is value:
            rounds[-1]["values"].append(full[:, context - 1 : -1].squeeze(-1).tolist())
        else:
            rounds[-1]["scores"].append(score.tolist())
        return full, score, ends

    def forward(model, ids, pad):
        found = real_forward(model, ids, pad)
        if torch.is_grad_enabled():
            found[1].retain_grad()
            passes.append({"values": found[1], "ids": ids})
        return found

    source.batch_generation, source.selective_log_softmax = generation, log_softmax
    source.get_reward, source.forward = get_reward, forward
    rows = [{"input_ids": [2 + i, 10 - i, 5]} for i in range(ROUND)]
    with tempfile.TemporaryDirectory() as folder:
        args = ppo.PPOConfig(
            output_dir=folder, per_device_train_batch_size=ROUND, num_mini_batches=ROUND // MINIBATCH,
            gradient_accumulation_steps=1, total_episodes=2 * ROUND, response_length=LENGTH, num_ppo_epochs=2,
            learning_rate=0.01, missing_eos_penalty=None, num_sample_generations=0, report_to=[], use_cpu=True,
            local_rollout_forward_batch_size=ROUND, bf16=False, save_strategy="no", seed=0, stop_token=None,
            gradient_checkpointing=False, **SETTINGS,
        )  # fmt: skip
        trainer = ppo.PPOTrainer(
            args=args, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
            value_model=value, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows),
        )  # fmt: skip
        backward = trainer.accelerator.backward

        def noted(loss, **how):
            backward(loss, **how)
            step = passes[-1]
            rounds[-1]["steps"].append(
                {
                    "loss": loss.item(),
                    "ids": step["ids"].tolist(),
                    "new_logps": step["new"].tolist(),
                    "logp_gradient": step["new"].grad.tolist(),
                    "new_values": step["values"][:, -LENGTH - 1 : -1, 0].tolist(),
                    "value_gradient": step["values"].grad[:, -LENGTH - 1 : -1, 0].tolist(),
                }
            )

        trainer.accelerator.backward = noted
        queried: list[Any] = []
        original = source.batch_generation

        def kept(*given):
            found = original(*given)
            queried.append(found[0].tolist())
            return found

        source.batch_generation = kept
        trainer.train()
    for one, ids in zip(rounds, queried, strict=True):
        one["ids"] = ids
        one["values"], one["scores"] = one["values"][0], one["scores"][0]
        one["logps"], one["reference_logps"] = one["logps"]
    found = {
        "versions": {name: version(name) for name in ("trl", "transformers", "torch")},
        "settings": SETTINGS,
        "rounds": rounds,
    }
    found["versions"]["trl"] = __import__("trl").__version__
    Path(__file__).with_name("ppo.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
