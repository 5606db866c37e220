"""What the online methods share: each round samples responses, scores them and learns from them."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint
from ..models.layout import Sequences, count_tokens, pad
from ..models.network import Network
from ..models.policy import Policy, TokenValues
from ..models.sampler import Sample, to_generations
from ..models.sampling import sample
from ..runtime import processes
from ..training.ledger import Ledger, Snapshots
from ..training.loop import Optimizer
from ..training.probe import Probe, response_signals
from ..training.resume import Stateful, StepCheckpoints, Weights
from ..training.task import TrainingTask, shuffled

Losses = Iterable[tuple[Tensor, dict[str, float]]]  # of micro-batches, with numbers to watch; both are summed


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


class OnlineTrainer:
    """One online training in progress; a method's own trainer says what a round is made of."""

    optimizer: Optimizer
    """Of the policy; a subclass makes it, for it knows how many steps are to come."""
    value_head: nn.Module | None = None
    """Of a critic on the policy's own trunk."""

    def __init__(self, method: Any, task: TrainingTask, policy: Policy, samples_per_prompt: int = 1):
        """samples_per_prompt: responses to one prompt in a round; they stand side by side."""
        if task.reward is None:
            raise TrainingError(f"{type(method).__name__} learns from a reward model, and this task has none")
        if not len(task.prompts):
            raise TrainingError(f"{type(method).__name__} samples from prompts, and this task has none")
        self.method, self.task, self.policy = method, task, policy
        self.samples_per_prompt = samples_per_prompt
        self.prompts_per_round = max(1, min(method.rollout_size, task.budget.examples) // samples_per_prompt)
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
        self.permutations = torch.Generator().manual_seed(task.seed)
        self.scale: tuple[float, float] | None = None if method.normalize_reward else (0.0, 1.0)

    def round(self, number: int, samples: list[Sample]) -> dict[str, float]:
        """Learn from a round's samples; returns what to log."""
        raise TypeError(f"{type(self).__name__} must define round(number, samples)")

    def parts(self) -> dict[str, Stateful]:
        """All that a round changes, for checkpoints."""
        return {"policy": Weights(self.policy.network.parameters), "optimizer": self.optimizer, "trainer": self}

    def state_dict(self) -> dict[str, Any]:
        """What the trainer itself holds from round to round."""
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
        order = itertools.islice(shuffled(len(self.task.prompts), self.task.seed), first * self.prompts_per_round, None)
        for number in checkpoints.steps(first, label, unit="round"):
            chosen = [self.task.prompts.prompts[i] for i in itertools.islice(order, self.prompts_per_round)]
            samples = sample(
                self.policy,
                [prompt for prompt in chosen for _ in range(self.samples_per_prompt)],
                max_new_tokens=self.task.prompts.max_new_tokens,
                seed=self.task.seed * 1_000_003 + number,
                temperature=self.method.temperature,
                value_head=self.value_head,
                together=True,
            )
            self.ledger.log(**self.round(number, samples), **watch((number + 1) / self.rounds))
            snapshots.reached(self.ledger.examples, self.policy.save)
        self.optimizer.finish()
        self.ledger.close()

    @torch.no_grad()
    def rewards(self, samples: list[Sample]) -> tuple[Tensor, dict[str, float]]:
        """What each response [batch] earns, normalized, less the penalty for a missing EOS; and what to watch."""
        share = processes.part(to_generations(self.policy, samples))
        scores = processes.gather([*self.task.reward(share)] if share else [])
        raw = torch.tensor([score for part in scores for score in part], dtype=torch.float32)
        if not torch.isfinite(raw).all():
            worst = samples[int((~torch.isfinite(raw)).nonzero()[0])].prompt.id
            raise TrainingError(
                f"step {self.ledger.optimizer_steps}: the reward of a response to {worst} is not finite"
            )
        if self.scale is None:  # the first round's responses are the SFT policy's
            self.scale = (float(raw.mean()), max(float(raw.std(correction=0)), 1e-6))
        finished = torch.tensor([s.finished for s in samples])
        final = (raw - self.scale[0]) / self.scale[1] - self.method.missing_eos_penalty * (~finished).float()
        self.ledger.examples += len(samples)
        self.ledger.reward_queries += len(samples)
        self.ledger.generated_tokens += sum(len(s.ids) for s in samples)
        return final.to(self.policy.device), {"reward": float(raw.mean()), **response_signals(samples)}

    def logps(self, policy: Policy, sequences: Sequences) -> TokenValues:
        """Log-probs under a policy at the method's temperature, without gradients."""
        return self.collect(sequences, lambda rows: policy.logps(rows, self.method.temperature))

    @property
    def sampler_is_exact(self) -> bool:
        """Whether what the sampler computed is what a pass over whole rows gives: our own, if not in bf16."""
        tuning = self.policy.network.tuning
        return tuning.sampler == "torch" and tuning.precision != "bf16"

    def old_logps(self, samples: Sequence[Sample]) -> TokenValues:
        """Log-probs of a round's responses under the policy that drew them: the sampler's own where they are exact."""
        if self.sampler_is_exact and all(s.logps for s in samples):
            return self.drawn([s.logps for s in samples])
        return self.logps(self.policy, [(s.prompt.ids, s.ids) for s in samples])

    def reference_logps(self, reference: Policy, samples: Sequence[Sample], old: TokenValues) -> TokenValues:
        """Log-probs of a round's responses under the SFT checkpoint, given those under the policy that drew them."""
        if self.optimizer.schedule.last_epoch == 0:  # the policy has not moved yet
            return old
        return self.logps(reference, [(s.prompt.ids, s.ids) for s in samples])

    def drawn(self, rows: Sequence[Sequence[float]]) -> TokenValues:
        """Rows of numbers, one a token, as [batch, longest]."""
        return TokenValues(*pad(rows, self.policy.device, fill=0.0))

    @torch.no_grad()
    def collect(self, sequences: Sequences, function: Callable[[Sequences], TokenValues]) -> TokenValues:
        """A function of sequences in micro-batches, in their order; all processes share them.

        A response that was drawn more than once is computed once in each process.
        """
        share = processes.part(sequences)
        distinct, found = list(dict.fromkeys(share)), {}
        self.ledger.scored_tokens += sum(processes.gather(count_tokens(distinct)))

        def measure(group: list[int]) -> None:
            rows = [distinct[i] for i in group]
            for row, values in zip(rows, function(rows).values.tolist(), strict=True):
                found[row] = values[: len(row[1])]

        self.policy.network.in_groups(distinct, measure)
        shares = processes.gather([found[row] for row in share])  # should one have failed, all hear it here
        return self.drawn([row for part in shares for row in part])

    def minibatches(self, count: int, size: int) -> Iterable[list[int]]:
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

    def learn(
        self, names: Sequence[str], size: int, epochs: int, losses: Callable[[list[int]], Losses]
    ) -> dict[str, float]:
        """Train the policy on minibatches of what a round gave; returns means of loss, gradient norm and signals.

        names: what each item is called in an error; losses(rows) are those of some items, or of this process's share.
        """
        seen: dict[str, list[float]] = {}
        for _ in range(epochs):
            for rows in self.minibatches(len(names), size):
                outcome = self.step(self.optimizer, lambda rows=rows: losses(rows), [names[i] for i in rows])
                for name, value in outcome.items():
                    seen.setdefault(name, []).append(value)
                self.ledger.optimizer_steps += 1
        return {name: sum(values) / len(values) for name, values in seen.items()}

    def step(self, optimizer: Optimizer, losses: Callable[[], Losses], names: Sequence[str]) -> dict[str, float]:
        """One optimizer step; returns its loss, gradient norm and what was watched.

        A loss that is not finite is told with its step and prompts.
        """
        watched: dict[str, float] = {}
        tokens = self.ledger.trained_tokens

        def only_losses() -> Iterable[Tensor]:
            watched.clear()
            for loss, values in losses():
                for name, value in values.items():
                    watched[name] = watched.get(name, 0.0) + value
                yield loss

        try:
            outcome = optimizer.step(only_losses)
        except TrainingError as error:
            shown = ", ".join(names[:4])
            raise TrainingError(f"step {self.ledger.optimizer_steps + 1}: {error} (prompts {shown}, ...)") from None
        self.ledger.add_up_tokens(since=tokens)
        return outcome | processes.added(watched)

    def count(self, sequences: Sequences) -> None:
        """Put sequences that are trained on into the ledger."""
        self.ledger.trained_tokens += count_tokens(sequences)


def train_online(task: TrainingTask, trainer: Callable[[Policy], OnlineTrainer]) -> Checkpoint:
    """Open a policy on the SFT checkpoint, let a trainer run on it, and save it."""
    policy = Policy.open(task.sft, task.tuning, trainable=True)
    try:
        trainer(policy).run()
        policy.save(task.out / "policy")
    finally:
        policy.network.close()
    return Checkpoint(task.out / "policy", key="")
