"""A world whose responses can be listed, so that the optimum of alignment is known exactly.

Four letters and EOS are the whole vocabulary and a response has at most two tokens, so there are 21 responses and no
others: EOS, a letter and EOS, or two letters. Each has a fixed random reward for each of three prompts. The reference
is a random tiny Llama, which can hold any table of these probabilities. What a method aims at in this world says
`goals.py`; how far a trained policy is from it is computed by listing all responses, not by sampling.
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ...models.chat import encode_prompt, encode_response
from ...models.checkpoint import Checkpoint
from ...models.layout import Layout
from ...models.policy import Policy
from ...models.tuning import Tuning
from ...results.records import Generation, Pair, Prompt, Reward
from ...training.task import PairDataset, PromptDataset

LETTERS = "abcd"
PROMPTS = ("a b", "c d", "d a")  # two unlike letters: attention over equal ones could not tell how many they are
RESPONSES = ("", *LETTERS, *(f"{first} {second}" for first, second in itertools.product(LETTERS, repeat=2)))
BETA = 0.5  # rewards per nat
SPREAD = 1.2  # standard deviation of the rewards: the reference then starts about 3 nats from the optimum
COMPARISONS = 20  # labels for each two responses to a prompt
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
TUNING = Tuning(precision="fp32", device="cpu")


@dataclass(frozen=True)
class Distance:
    """A policy's distances and reward; means over the prompts."""

    kl_to_optimum: float
    """KL in nats from the policy to the optimum that it is measured from."""
    kl_to_reference: float
    reward: float


class OptimumWorld:
    """The world with its reference policy on disk."""

    def __init__(self, folder: Path, seed: int = 0):
        """Draw rewards and reference; the reference is saved below the folder."""
        rng = random.Random(seed)
        self.rewards = torch.tensor([[rng.gauss(0, SPREAD) for _ in RESPONSES] for _ in PROMPTS])
        tokenizer = build_tokenizer()
        turns = [({"role": "user", "content": text},) for text in PROMPTS]
        self.prompts = [Prompt(t[0]["content"], t, tuple(encode_prompt(tokenizer, t))) for t in turns]
        # two letters fill the response, so nothing comes after them
        self.responses = [tuple(encode_response(tokenizer, text)[:2]) for text in RESPONSES]
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=8,
            initializer_range=0.2,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.reference = Checkpoint(folder / "reference", key=f"optimum world {seed}")
        LlamaForCausalLM(config).save_pretrained(self.reference.path)
        tokenizer.save_pretrained(self.reference.path)

    @property
    def sequences(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Every prompt with every response, prompt by prompt."""
        return [(prompt.ids, response) for prompt in self.prompts for response in self.responses]

    @cached_property
    def reference_logps(self) -> Tensor:
        """Log-probs [prompts, responses] under the reference."""
        return self.logps(self.reference)

    @property
    def texts(self) -> tuple[str, ...]:
        """All responses as texts."""
        return RESPONSES

    @property
    def lengths(self) -> Tensor:
        """Tokens [responses] of each response, EOS among them."""
        return torch.tensor([float(len(response)) for response in self.responses], dtype=torch.float64)

    def logps(self, checkpoint: Checkpoint, temperature: float = 1.0) -> Tensor:
        """Log-probs [prompts, responses] of a saved policy whose logits are divided by the temperature."""
        policy = Policy.open(checkpoint, TUNING, trainable=False)

        def totals(layout: Layout) -> list[float]:
            return policy.logps(layout, temperature).sum().tolist()

        found = torch.tensor(policy.network.over_distinct(self.sequences, totals))
        return found.reshape(self.rewards.shape).double()

    def distance(self, logps: Tensor, optimum: Tensor, reference: Tensor | None = None) -> Distance:
        """The distance of log-probs [prompts, responses] from those of an optimum; all at one temperature."""
        chances = logps.exp()

        def mean(values: Tensor) -> float:
            return float((chances * values).sum(1).mean())

        return Distance(
            kl_to_optimum=mean(logps - optimum),
            kl_to_reference=mean(logps - (self.reference_logps if reference is None else reference)),
            reward=mean(self.rewards),
        )

    def reward(self, generations: Sequence[Generation]) -> list[float]:
        """The reward of any response: what a training reward model would be to a method."""
        return self.reward_of(generations, self.rewards)

    def reward_of(self, generations: Sequence[Generation], table: Tensor) -> list[float]:
        """What a table [prompts, responses] says of responses."""
        column = {text: i for i, text in enumerate(RESPONSES)}
        row = {prompt.id: i for i, prompt in enumerate(self.prompts)}
        return [float(table[row[g.prompt_id], column[g.response]]) for g in generations]

    def noisy_reward(self, seed: int) -> Reward:
        """The reward with Gumbel noise: of two responses the better is then a Bradley-Terry labeller's choice."""
        rng = random.Random(seed)

        def reward(generations: Sequence[Generation]) -> list[float]:
            noise = (-math.log(rng.expovariate(1.0)) for _ in generations)
            return [value + more for value, more in zip(self.reward(generations), noise, strict=True)]

        return reward

    def other_rewards(self, count: int) -> list[Tensor]:
        """Tables of `count` reward models that differ from the reward as models with other seeds do."""
        draw = torch.Generator().manual_seed(1)
        return [self.rewards + 0.5 * torch.randn(self.rewards.shape, generator=draw) for _ in range(count)]

    def prompt_dataset(self) -> PromptDataset:
        return PromptDataset(self.prompts, max_new_tokens=2)

    @cached_property
    def wins(self) -> Tensor:
        """How often Bradley-Terry labellers prefer the first [prompts, responses, 1] to the second [..., responses]."""
        return torch.sigmoid(self.rewards[:, :, None] - self.rewards[:, None, :]).double()

    def pair_dataset(self, seed: int, flipped: float = 0.0) -> PairDataset:
        """Each two responses to each prompt, compared COMPARISONS times by Bradley-Terry labellers.

        flipped: share of labels that say the other. The wins are the expected ones, rounded up or down by chance, so
        that they are right on average and nearly so for each two. Equal comparisons are the same pair.
        """
        rng = random.Random(seed)
        pairs, index = [], []
        for p, prompt in enumerate(self.prompts):
            for i, j in itertools.combinations(range(len(RESPONSES)), 2):
                chance = flipped + (1 - 2 * flipped) * float(self.wins[p, i, j])
                wins = math.floor(COMPARISONS * chance + rng.random())
                for better, worse, count in ((i, j, wins), (j, i, COMPARISONS - wins)):
                    pair = Pair(f"{p}-{better}-{worse}", prompt, self.responses[better], self.responses[worse])
                    pairs += [pair] * count
                    index += [(p, better, worse)] * count
        where = torch.tensor(index)
        logps = self.reference_logps.float()
        sides = logps[where[:, 0], where[:, 1]], logps[where[:, 0], where[:, 2]]
        return PairDataset(pairs, lambda: sides)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter, and EOS."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["</s>", *LETTERS])}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    fast.chat_template = TEMPLATE
    return fast
