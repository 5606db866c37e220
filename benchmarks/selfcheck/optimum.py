"""A world whose responses can be listed, so that the optimum of alignment is known exactly.

Seven letters and EOS are the whole vocabulary and a response has at most two tokens, so there are 57 responses and no
others: EOS, a letter and EOS, or two letters. Each has a fixed random reward for each of four prompts. The reference is
a random tiny Llama, which can hold any table of these probabilities. The optimum of expected reward minus beta times
the KL to the reference is pi* proportional to pi_ref exp(r / beta) (Rafailov et al. 2023, eq. 4), response by response;
how far a trained policy is from it is computed by listing all responses, not by sampling.
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
from ...models.policy import Policy
from ...models.tuning import Tuning
from ...results.records import Generation, Pair, Prompt
from ...training.task import PairDataset, PromptDataset

LETTERS = "abcdefg"
PROMPTS = ("a b", "c d", "e f", "g a")  # two unlike letters: attention over equal ones could not tell how many they are
RESPONSES = ("", *LETTERS, *(f"{first} {second}" for first, second in itertools.product(LETTERS, repeat=2)))
BETA = 0.5  # rewards per nat
SPREAD = 1.2  # standard deviation of the rewards: the reference then starts about 3 nats from the optimum
COMPARISONS = 60  # labels sampled for each two responses to a prompt
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
TUNING = Tuning(precision="fp32", device="cpu")


@dataclass(frozen=True)
class Distance:
    """A policy's distances and reward; means over the prompts."""

    kl_to_optimum: float
    """KL(pi || pi*) in nats."""
    regret: float
    """Objective (reward - beta KL to the reference) of pi* less that of the policy, in rewards."""
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

    @cached_property
    def optimum_logps(self) -> Tensor:
        """Log-probs of pi* [prompts, responses]."""
        return (self.reference_logps + self.rewards / BETA).log_softmax(1)

    def logps(self, checkpoint: Checkpoint) -> Tensor:
        """Log-probs [prompts, responses] of a saved policy."""
        policy = Policy.open(checkpoint, TUNING, trainable=True)
        return policy.total_logps(self.sequences).reshape(self.rewards.shape).double()

    def distance(self, checkpoint: Checkpoint, optimum: Tensor | None = None) -> Distance:
        """The distance of a saved policy from pi*, or from another optimum [prompts, responses]."""
        return self.distance_of(self.logps(checkpoint), optimum)

    def distance_of(self, logps: Tensor, optimum: Tensor | None = None) -> Distance:
        """The distance of log-probs [prompts, responses] from pi*, or from another optimum."""
        chances = logps.exp()

        def mean(values: Tensor) -> float:
            return float((chances * values).sum(1).mean())

        best = self.optimum_logps
        objective = mean(self.rewards - BETA * (logps - self.reference_logps))
        highest = float((best.exp() * (self.rewards - BETA * (best - self.reference_logps))).sum(1).mean())
        return Distance(
            kl_to_optimum=mean(logps - (best if optimum is None else optimum)),
            regret=highest - objective,
            kl_to_reference=mean(logps - self.reference_logps),
            reward=mean(self.rewards),
        )

    def best_of_logps(self, n: int) -> Tensor:
        """Log-probs [prompts, responses] of the best of n samples of the reference, exactly.

        A response is the best with the chance that all n are at most as good, less that all are worse.
        """
        order = self.rewards.argsort(1)
        upto = self.reference_logps.exp().gather(1, order).cumsum(1)
        below = torch.cat([torch.zeros_like(upto[:, :1]), upto[:, :-1]], 1)
        chances = torch.zeros_like(upto).scatter(1, order, upto**n - below**n)
        return chances.clamp(min=1e-300).log()

    def reward(self, generations: Sequence[Generation]) -> list[float]:
        """The reward of any response: what a training reward model would be to a method."""
        column = {text: i for i, text in enumerate(RESPONSES)}
        row = {prompt.id: i for i, prompt in enumerate(self.prompts)}
        return [float(self.rewards[row[g.prompt_id], column[g.response]]) for g in generations]

    def prompt_dataset(self) -> PromptDataset:
        return PromptDataset(self.prompts, max_new_tokens=2)

    def pair_dataset(self, seed: int) -> PairDataset:
        """Each two responses to each prompt, compared COMPARISONS times by Bradley-Terry labellers.

        Equal comparisons are the same pair, as often as it was drawn.
        """
        rng = random.Random(seed)
        pairs, index = [], []
        for p, prompt in enumerate(self.prompts):
            rewards = self.rewards[p].tolist()
            for i, j in itertools.combinations(range(len(RESPONSES)), 2):
                chance = 1 / (1 + math.exp(rewards[j] - rewards[i]))
                wins = sum(rng.random() < chance for _ in range(COMPARISONS))
                for better, worse, count in ((i, j, wins), (j, i, COMPARISONS - wins)):
                    pair = Pair(f"{p}-{better}-{worse}", prompt, self.responses[better], self.responses[worse])
                    pairs += [pair] * count
                    index += [(p, better, worse)] * count
        where = torch.tensor(index)
        logps = self.reference_logps.float()
        sides = logps[where[:, 0], where[:, 1]], logps[where[:, 0], where[:, 2]]
        return PairDataset(pairs, lambda: sides)

    def ipo_optimum(self, beta: float) -> Tensor:
        """Log-probs of IPO's optimum [prompts, responses] when every two responses are compared equally often.

        Each pair asks for a log-ratio difference of (2 p - 1) / (2 beta) in the mean over its labels, p being how often
        the first wins; the least-squares solution gives each response the mean of that over all (Azar et al. 2023,
        section 5: a regression).
        """
        p = torch.sigmoid(self.rewards[:, :, None] - self.rewards[:, None, :])
        return (self.reference_logps + ((2 * p - 1) / (2 * beta)).mean(2)).log_softmax(1)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter, and EOS."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["</s>", *LETTERS])}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    fast.chat_template = TEMPLATE
    return fast
