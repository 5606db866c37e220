"""The online methods' base: each round samples responses, scores them and learns from them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint
from ..models.layout import Layout, Sequences, count_tokens, pad
from ..models.network import Network
from ..models.policy import Policy, TokenValues
from ..models.sampler import Sample, to_generations
from ..models.sampling import sample
from ..models.shared_work import by_all, deal
from ..results.records import Generation
from ..runtime import processes
from ..training.ledger import Ledger, Snapshots
from ..training.loop import Optimizer
from ..training.probe import Probe, response_signals
from ..training.resume import Stateful, StepCheckpoints, Weights
from ..training.task import TrainingTask, shuffled, trained_policy


@dataclass(frozen=True, kw_only=True)
class OnlineMethod:
    """Settings of a method that learns from responses it samples itself."""

    lr: Annotated[float, Gt(0)] = 1e-5
    """Peak learning rate of the policy, above 0; falls linearly to 0."""
    rollout_size: Annotated[int, Gt(0)] = 64
    """Responses sampled per round."""
    minibatch_size: Annotated[int, Gt(0)] = 16
    """Responses per optimizer step."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Sampling temperature; divides the logits of policy and reference in training as well."""
    normalize_reward: bool = True
    """Shift and scale rewards so that the SFT policy's responses (first round) have mean 0 and standard deviation 1,
    as in Ziegler et al. (2019, arXiv:1909.08593)."""
    missing_eos_penalty: Annotated[float, Ge(0)] = 1.0
    """Subtracted from the reward, after normalization, of a response that did not end by itself."""
    warmup: Annotated[float, Ge(0), Le(1)] = 0.05
    """Share of the steps over which learning rates rise."""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """Gradients are scaled down to this norm."""
    adam_epsilon: Annotated[float, Gt(0)] = 1e-8
    """Added to Adam's denominator; PyTorch's default."""

    needs_reward: ClassVar[bool] = True

    def round_size(self, budget: int) -> int:
        """Responses sampled per round of a training that may sample so many in all."""
        return min(self.rollout_size, budget)

    def begin(self, task: TrainingTask, policy: Policy) -> "OnlineTrainer":
        """The trainer of one training."""
        raise TypeError(f"{type(self).__name__} must define begin(task, policy)")

    def train(self, task: TrainingTask) -> Checkpoint:
        with trained_policy(task) as policy:
            self.begin(task, policy).run()
        return task.made


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A round's responses, scored: what is learnt from it. A subclass has what its losses need besides."""

    prompts: list[str]
    """Ids."""
    sequences: Sequences
    """Those that are learnt, as many to each prompt and side by side."""
    signals: dict[str, float]
    """To log."""


class OnlineTrainer:
    """One online training in progress; a method's own trainer has `score` and `update`."""

    optimizer: Optimizer
    """Of the policy; a subclass makes it, for it knows how many steps are to come."""
    value_head: nn.Linear | None = None
    """Of a critic on the policy's own trunk."""
    scores_per_response: int = 1
    """Rewards that are asked for each response."""

    def __init__(self, method: Any, task: TrainingTask, policy: Policy, samples_per_prompt: int = 1):
        """samples_per_prompt: responses to one prompt in a round; they stand side by side."""
        if task.reward is None:
            raise TrainingError(f"{type(method).__name__} learns from a reward model, and this task has none")
        if not len(task.prompts):
            raise TrainingError(f"{type(method).__name__} samples from prompts, and this task has none")
        self.method, self.task, self.policy = method, task, policy
        self.reward: Callable[[Sequence[Generation]], Sequence[Any]] = task.reward  # a number a response, or several
        self.samples_per_prompt = samples_per_prompt
        self.prompts_per_round = max(1, method.round_size(task.budget.examples) // samples_per_prompt)
        self.size = self.prompts_per_round * samples_per_prompt
        self.rounds = task.budget.examples // self.size
        if self.rounds == 0:
            raise TrainingError(
                f"a budget of {task.budget.examples} examples is less than samples_per_prompt, {samples_per_prompt}"
            )
        if self.size < processes.size():
            raise TrainingError(
                f"a round of {self.size} responses is less than the {processes.size()} processes; launch "
                f"fewer processes, or raise rollout_size"
            )
        self.ledger = Ledger.of(policy.network, task.out)
        self.epochs = 1  # over a round's responses
        self.prompts_per_step = max(1, method.minibatch_size // samples_per_prompt)
        self.permutations = torch.Generator().manual_seed(task.seed)
        self.scale: tuple[float, float] | None = None if method.normalize_reward else (0.0, 1.0)

    def score(self, samples: list[Sample]) -> Rollout:
        """A round's responses with what they are worth, which moves no weight."""
        raise TypeError(f"{type(self).__name__} must define score(samples)")

    def update(self, rollout: Any, prompts: list[int]) -> dict[str, float]:
        """One optimizer step on what a rollout has of some prompts, by index; returns what to log."""
        raise TypeError(f"{type(self).__name__} must define update(rollout, prompts)")

    def learn(self, rollout: Rollout, **how: Any) -> dict[str, float]:
        """All epochs over a round, in minibatches of whole prompts; returns the means of what the steps log.

        how: arguments of `update`.
        """
        seen: dict[str, list[float]] = {}
        for _ in range(self.epochs):
            for prompts in self.minibatches(len(rollout.prompts), self.prompts_per_step):
                for name, value in self.update(rollout, prompts, **how).items():
                    seen.setdefault(name, []).append(value)
                self.ledger.optimizer_steps += 1
        return {name: sum(values) / len(values) for name, values in seen.items()}

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        """Learn from a round's samples; returns what to log."""
        rollout = self.score(samples)
        return rollout.signals | self.learn(rollout)

    def parts(self) -> dict[str, Stateful]:
        """All that a round changes, for checkpoints."""
        return {"policy": Weights(self.policy.network.parameters), "optimizer": self.optimizer, "trainer": self}

    def state_dict(self) -> dict[str, Any]:
        """The trainer's own state from round to round."""
        return {"permutations": self.permutations.get_state(), "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.permutations.set_state(state["permutations"])
        self.scale = tuple(state["scale"]) if state["scale"] else None

    def run(self) -> None:
        label = f"{type(self.method).__name__} seed {self.task.seed}"
        watch = Probe(self.task, self.policy, self.ledger, with_samples=False)  # a round's responses are samples enough
        snapshots = Snapshots(self.task)
        held = {**self.parts(), "ledger": self.ledger, "probe": watch, "snapshots": snapshots}
        checkpoints = StepCheckpoints(
            self.task.out, self.ledger.phase(label), self.rounds, held, every=self.task.checkpoint_every
        )
        first = checkpoints.restore()
        count, k = len(self.task.prompts), self.samples_per_prompt
        places = enumerate(shuffled(count, self.task.seed))  # an epoch has each prompt once
        order = itertools.islice(places, first * self.prompts_per_round, None)
        for number in checkpoints.steps(first, label, unit="round"):
            drawn = [(place // count, i) for place, i in itertools.islice(order, self.prompts_per_round)]
            samples = sample(
                self.policy,
                [self.task.prompts.prompts[i] for _, i in drawn for _ in range(k)],
                max_new_tokens=self.task.prompts.max_new_tokens,
                seed=self.task.seed,
                numbers=[epoch * k + j for epoch, _ in drawn for j in range(k)],
                temperature=self.method.temperature,
                value_head=self.value_head,
                together=True,
            )
            self.ledger.log(**self.round(number, samples), **watch((number + 1) / self.rounds))
            with self.ledger.looking():
                snapshots.reached(self.ledger.examples, self.policy.save)
        self.optimizer.finish()
        self.ledger.close()

    @torch.no_grad()
    def rewards(self, samples: list[Sample]) -> tuple[Tensor, dict[str, float]]:
        """The reward of each response [batch], normalized, less the penalty for a missing EOS; and what to watch."""
        asked = self.scores_per_response
        if self.task.reward_model:  # a network of the policy's size reads each response
            self.ledger.scored_tokens += asked * count_tokens({(s.prompt.ids, s.ids) for s in samples})
        hands = deal([[(s.prompt.ids, s.ids)] for s in samples], share_prompts=self.policy.network.packs)
        scores = by_all(to_generations(self.policy, samples), hands, self.reward)
        raw = torch.tensor(scores, dtype=torch.float32)
        if not torch.isfinite(raw).all():
            worst = samples[int((~torch.isfinite(raw)).nonzero()[0][0])].prompt.id
            raise TrainingError(
                f"step {self.ledger.optimizer_steps}: the reward of a response to {worst} is not finite"
            )
        raw = self.combined(raw)
        if self.scale is None:  # the first round's responses are the SFT policy's
            self.scale = (float(raw.mean()), max(float(raw.std(correction=0)), 1e-6))
        finished = torch.tensor([s.finished for s in samples])
        final = (raw - self.scale[0]) / self.scale[1] - self.method.missing_eos_penalty * (~finished).float()
        self.ledger.examples += len(samples)
        self.ledger.reward_queries += asked * len(samples)
        self.ledger.generated_tokens += sum(len(s.ids) for s in samples)
        return final.to(self.policy.device), {"reward": float(raw.mean()), **response_signals(samples)}

    def combined(self, scores: Tensor) -> Tensor:
        """The reward [batch] from what `reward` says of each response: one number, or several [batch, scores]."""
        return scores

    def logps(self, policy: Policy, sequences: Sequences) -> TokenValues:
        """Log-probs under a policy at the method's temperature, without gradients."""
        return self.collect(sequences, policy.network, lambda layout: policy.logps(layout, self.method.temperature))

    @property
    def sampler_is_exact(self) -> bool:
        """True if what the sampler computed is what a pass over whole rows gives: our own, if not in bf16."""
        tuning = self.policy.network.tuning
        return tuning.sampler == "torch" and tuning.precision != "bf16"

    def old_logps(self, samples: Sequence[Sample]) -> TokenValues:
        """Log-probs of a round's responses under the policy that drew them: the sampler's own where they are exact."""
        if self.sampler_is_exact and all(s.logps for s in samples):
            return self.drawn([s.logps for s in samples])
        return self.logps(self.policy, [(s.prompt.ids, s.ids) for s in samples])

    def sampler_gap(self, samples: Sequence[Sample], old: TokenValues) -> dict[str, float]:
        """To log: the mean distance in nats between log-probs under the policy and those the sampler drew with.

        Nothing where they are the same numbers, or a sampler says none.
        """
        if self.sampler_is_exact or not all(s.logps for s in samples):
            return {}
        distances = (old.values - self.drawn([s.logps for s in samples]).values).abs()
        return {"sampler_gap": float(distances[old.mask].mean())}

    def reference_logps(self, reference: Policy, samples: Sequence[Sample], old: TokenValues) -> TokenValues:
        """Log-probs of a round's responses under the SFT checkpoint, given those under the policy that drew them."""
        if self.optimizer.schedule.last_epoch == 0:  # the policy has not moved yet
            return old
        return self.logps(reference, [(s.prompt.ids, s.ids) for s in samples])

    def drawn(self, rows: Sequence[Sequence[float]]) -> TokenValues:
        """Rows of numbers, one a token, as [batch, longest]."""
        return TokenValues(*pad(rows, self.policy.device, fill=0.0))

    def collect(self, sequences: Sequences, network: Network, values: Callable[[Layout], TokenValues]) -> TokenValues:
        """A network's values of sequences, in their order; all processes share them.

        A response that was drawn more than once is computed once. Passes are cut as for the policy.
        """
        self.ledger.scored_tokens += count_tokens(set(sequences))
        rows = lambda layout: values(layout).rows()  # noqa: E731  (too short for a name of its own)
        return self.drawn(self.policy.network.over_distinct(sequences, rows, beside=network, together=True))

    def minibatches(self, count: int, size: int) -> list[list[int]]:
        """A fresh permutation of the indices below count, in parts."""
        permutation = torch.randperm(count, generator=self.permutations).tolist()
        return [permutation[start : start + size] for start in range(0, count, size)]

    def optimizer_for(
        self, network: Network, lr: float, steps: int, *, head: nn.Module | None = None, head_lr: float = 0.0
    ) -> Optimizer:
        """An optimizer with the method's warm-up and clipping; head: learns beside the network, at head_lr."""
        return Optimizer(
            network,
            head=head,
            head_lr=head_lr,
            lr=lr,
            total_steps=steps,
            warmup=self.method.warmup,
            max_grad_norm=self.method.max_grad_norm,
            epsilon=self.method.adam_epsilon,
        )
