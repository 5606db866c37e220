"""Sampling responses from a policy."""

import dataclasses
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..results.records import Generation, Prompt, Reward
from ..runtime import processes
from ..runtime.turns import end_turns
from .layout import count_tokens
from .policy import Policy
from .sampler import Sample, Sampler, to_generations
from .sampler_torch import sample_rows
from .shared_work import shared


@shared
@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    seed: int,
    numbers: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    value_head: nn.Module | None = None,
    progress: str | None = None,
    together: bool = False,
) -> list[Sample]:
    """One response a prompt, in the order of the prompts; top_p 1 samples purely, below 1 from the `nucleus`.

    vLLM draws where `tuning.sampler` says so, else our own sampler. A response's random numbers are those of the seed,
    its prompt's id and its number among the responses to that prompt (`streams`): nothing else changes it (but for the
    rounding of sums), and all policies draw it with the same ones. numbers: of each response, counted from 0 if None.
    value_head: from last hidden states [rows, width] to values [rows, 1]; vLLM has none. progress: the label of a
    progress bar, none if None. together: all processes of the run are here, and each samples its shard.
    """
    rows: Sequence[int] = range(len(prompts))
    if together:
        rows = processes.shard(sorted(rows, key=lambda i: len(prompts[i].ids)))
    policy.network.activate()  # with divided weights all processes do, also one whose shard is empty
    sampler: Sampler = partial(sample_rows, value_head=value_head)
    if policy.network.tuning.sampler == "vllm":
        from . import sampler_vllm

        sampler = partial(sampler_vllm.sample, together=together)
    drawn = sampler(
        policy,
        prompts,
        rows,
        streams=streams(prompts, numbers),
        max_new_tokens=max_new_tokens,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        progress=progress,
    )
    if not together:
        return drawn
    end_turns()
    found = {i: one for shard in processes.all_gather(dict(zip(rows, drawn, strict=True))) for i, one in shard.items()}
    return [found[i] for i in range(len(prompts))]


def streams(prompts: Sequence[Prompt], numbers: Sequence[int] | None = None) -> list[int]:
    """The stream of random numbers of each response, 64 bits: a hash of its prompt's id and its number.

    numbers: how many responses to its prompt come before each; None counts them in these prompts.
    """
    if numbers is None:
        seen: Counter[str] = Counter()
        numbers = []
        for prompt in prompts:
            numbers.append(seen[prompt.id])
            seen[prompt.id] += 1
    texts = (f"{number} {prompt.id}" for prompt, number in zip(prompts, numbers, strict=True))
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]


@dataclass(frozen=True)
class Choice:
    """The choice of best-of-n: the best of several responses by a reward."""

    responses: int
    reward: Callable[[], Reward]
    key: str
    """Of the reward."""
    is_network: bool = True
    """The reward is a network of the policy's size, whose passes count."""


@dataclass(frozen=True)
class Answers:
    """Responses, and what it takes a user to have them: all that was drawn for a choice, without entropy and KL."""

    generations: list[Generation]
    generated_tokens: int
    scored_tokens: int
    """By the reward model of a choice."""
    reward_queries: int
    seconds: float


def respond(
    policy: Policy,
    reference: Policy | None,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    choice: Choice | None = None,
) -> Answers:
    """A response to each prompt with the policy's entropy and its KL to the reference (None: it is the reference).

    With a choice the response is the chosen one; its KL is then the bound log n - (n - 1) / n (Beirami et al. 2024,
    arXiv:2401.01879), for the policy itself must be the reference.
    """
    n = choice.responses if choice else 1
    began = time.monotonic()
    samples = sample(
        policy,
        [p for p in prompts for _ in range(n)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        progress="responses",
    )
    generated, read = sum(len(s.ids) for s in samples), 0
    if choice:
        read = count_tokens((s.prompt.ids, s.ids) for s in samples) if choice.is_network else 0
        rewards = torch.tensor(choice.reward()(to_generations(policy, samples))).view(-1, n)
        samples = [samples[i * n + j] for i, j in enumerate(rewards.argmax(1).tolist())]
    seconds = time.monotonic() - began
    sequences = [(s.prompt.ids, s.ids) for s in samples]
    entropies, kls, _ = policy.entropy_kl_logps(sequences, reference)
    if choice:
        kls = [math.log(n) - (n - 1) / n] * len(samples)
    found = zip(to_generations(policy, samples, kls), entropies, strict=True)
    generations = [dataclasses.replace(generation, entropy=entropy) for generation, entropy in found]
    return Answers(generations, generated, read, n * len(samples) if choice else 0, seconds)
