"""The one optimizer loop: SFT, reward models and every method train through it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.layout import Batch, Item, Sequences
from ..models.network import Network
from ..models.shared_work import deal
from ..runtime import processes
from ..runtime.sharding import divided_like, full
from ..runtime.zero import Zero
from .ledger import Ledger
from .resume import Stateful, StepCheckpoints, Weights
from .task import shuffled

Example = TypeVar("Example")
# A batch's part of a step's loss, and what reads the numbers to watch, after the backward passes; all are summed.
Watched = tuple[Tensor, Callable[[], dict[str, float]]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an optimizer step, over all its batches and all processes."""

    loss: float
    grad_norm: float
    """Before it was clipped."""
    tokens: int
    """That went through the network with gradients, a prompt with each of its responses."""
    watched: dict[str, float]
    """The sums of what the losses watch."""

    @property
    def logged(self) -> dict[str, float]:
        """All that a log shows of it."""
        return {"loss": self.loss, "grad_norm": self.grad_norm, **self.watched}


def rise_and_fall(total_steps: int, warmup: float) -> Callable[[int], float]:
    """Share of the peak learning rate at each step: up linearly over a share of the steps, then down to 0."""
    rising = max(1, math.ceil(warmup * total_steps))
    return lambda step: min((step + 1) / rising, max(0.0, (total_steps - step) / max(1, total_steps - rising)))


def reader(numbers: Mapping[str, Tensor]) -> Callable[[], dict[str, float]]:
    """What reads numbers from their device, all at once, for each read waits; the same digits as of each alone."""

    def read() -> dict[str, float]:
        values = torch.stack([value.float() for value in numbers.values()]).tolist() if numbers else []
        return dict(zip(numbers, values, strict=True))

    return read


class Optimizer:
    """AdamW with linear warm-up and linear decay, gradient accumulation and clipping."""

    def __init__(
        self,
        network: Network,
        *,
        lr: float,
        total_steps: int,
        warmup: float = 0.05,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        epsilon: float = 1e-8,
        head: nn.Module | None = None,
        head_lr: float = 0.0,
    ):
        """total_steps: optimizer steps to come; warmup: share of them; max_grad_norm: of all gradients together;
        epsilon: added to Adam's denominator; head: learns beside the network, at a peak rate of its own."""
        self.network = network
        self.divided = processes.is_sharding() and network.shard()  # else every process holds all weights
        if self.divided and head:
            raise TrainingError("a head beside the network cannot learn where weights are divided among processes")
        own, of_head = [p for p in network.parameters if p.requires_grad], [*head.parameters()] if head else []
        groups: list[dict[str, Any]] = [{"params": own}, *([{"params": of_head, "lr": head_lr}] if of_head else [])]
        self.parameters = [*own, *of_head]
        self.max_grad_norm = max_grad_norm
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters)
        self.adam = torch.optim.AdamW(
            groups,
            lr=lr,
            betas=(0.9, 0.999),
            eps=epsilon,
            weight_decay=weight_decay,
            fused=fused,
        )
        self.zero = Zero(self.adam) if processes.is_dividing_moments() else None
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, rise_and_fall(total_steps, warmup))

    @property
    def lr(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments by parameter, and how many steps were done."""
        state: dict[str, Any] = {"steps": self.schedule.last_epoch}
        if self.zero:
            return state | self.zero.state_dict()
        for i, parameter in enumerate(self.parameters):
            state |= {f"{i} {name}": value for name, value in self.adam.state.get(parameter, {}).items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        steps = state["steps"]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key != "steps":
                number, _, name = key.partition(" ")
                moments.setdefault(int(number), {})[name] = value
        if self.zero:
            self.zero.load_state_dict(moments)
        else:
            for i, found in moments.items():
                parameter = self.parameters[i]
                self.adam.state[parameter] = {name: divided_like(value, parameter) for name, value in found.items()}
        rates = [self.schedule.lr_lambdas[0](steps) * peak for peak in self.schedule.base_lrs]
        self.schedule.load_state_dict({"last_epoch": steps, "_last_lr": rates, "lr_lambdas": [None] * len(rates)})
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = rate

    def step(self, batches: Callable[[], Iterable[Batch]], loss: Callable[[Batch], Watched]) -> Outcome:
        """One update on the sum of the batches' losses, each freed after its backward pass.

        batches() makes them; when memory runs out it is called again, and finds the network willing to take less. With
        several processes each has batches of its own rows, and all sums are over all.

        TrainingError, with the weights untouched, if the loss or the gradient is not finite.
        """
        of_all = self.network.is_of_all
        together = of_all or (self.zero and self.zero.stage == 2)  # all make every pass: none can start again
        while True:
            self.adam.zero_grad(set_to_none=True)
            if self.zero:
                self.zero.clear()
            tokens = 0
            values: list[Tensor] = []
            watching: list[Callable[[], dict[str, float]]] = []
            try:
                for batch in batches():
                    value, watched = loss(batch)
                    self.zero.backward(value) if self.zero else value.backward()
                    values.append(value.detach())
                    watching.append(watched)
                    tokens += batch.tokens
                    del batch, value, watched  # before the next one is laid out
                if of_all:
                    self.network.end_passes()
                if self.zero:
                    self.zero.join_passes()
                break
            except Exception as error:
                if together and not getattr(error, "told", False):
                    processes.end_all(error)  # nor fail alone
                if not isinstance(error, (RuntimeError, MemoryError)):
                    raise
                self.network.use_less_memory(error)
        sums: dict[str, float] = {}
        for watched in watching:  # read when all is launched, for each read waits for what was
            for name, number in watched().items():
                sums[name] = sums.get(name, 0.0) + number
        total = 0.0
        for number in torch.stack(values).tolist() if values else []:
            total += number
        total = self._all_reduce(total)
        norm = self._move(total)
        return Outcome(total, norm, sum(processes.all_gather(tokens)), processes.all_reduce_numbers(sums))

    def _move(self, total: float) -> float:
        """Change the weights by the gradient of a loss, cut to its norm, which is returned."""
        updated = self.zero.shards if self.zero else self.parameters
        norm = full(nn.utils.get_total_norm([p.grad for p in updated if p.grad is not None]))
        if self.zero:
            norm = self.zero.norm(norm)
        nn.utils.clip_grads_with_norm_(updated, self.max_grad_norm, norm)
        size = float(norm)
        if not math.isfinite(total) or not math.isfinite(size):
            raise TrainingError(
                f"loss {total} with gradient norm {size}: lower the learning rate or look at these rows"
            )
        self.adam.step()
        if self.zero:
            self.zero.all_gather()
        self.schedule.step()
        return size

    def _all_reduce(self, total: float) -> float:
        """Add up loss and gradients over all processes; a weight without gradient in one of them counts 0 there.

        Gradients of divided weights were added up in the backward pass.
        """
        if processes.size() == 1:
            return total
        if self.zero:
            self.zero.reduce_scatter()
        if self.divided or self.zero:
            return sum(processes.all_gather(total))
        heard = processes.all_gather((total, [p.grad is not None for p in self.parameters]))
        totals, given = zip(*heard, strict=True)
        used = [p for p, *anywhere in zip(self.parameters, *given, strict=True) if any(anywhere)]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        processes.all_reduce([p.grad for p in used])
        return sum(totals)

    @torch.no_grad()
    def finish(self) -> None:
        """The end of the training: every process has all weights again.

        TrainingError where one is not finite, which only the loss of a further step would tell.
        """
        if self.divided:
            self.network.unshard()
        if self.zero:
            self.zero.finish()
        if not torch.stack([torch.isfinite(p).all() for p in self.network.parameters]).all():
            raise TrainingError("the weights are not finite after the last step: lower the learning rate")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training over given examples."""

    examples: int
    """Draws from the examples, repeats counted, above 0."""
    batch_size: int
    """Examples an optimizer step, above 0."""
    lr: float
    """Peak learning rate of AdamW, above 0."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises, 0 to 1; then it falls linearly to 0."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, at least 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm, above 0."""
    seed: int
    """Of the order of the examples."""
    label: str
    """Of the progress bar and the step checkpoints."""
    checkpoint_every: float | None = None
    """Seconds between the checkpoints from which a training that was stopped goes on; None: see training/resume.py."""


class Objective(Generic[Example]):
    """The object of a training: its examples, what of them goes through the network, and their losses."""

    examples: Sequence[Example]
    by_place: bool = False
    """Lay out the examples' first sequences before their second ones; else an example's stand side by side."""
    with_prompt: bool = False
    """Predict the prompt of an example's first sequence too, from its second token on."""

    def sequences(self, example: Example) -> Sequences:
        """The part of an example that goes through the network, in one pass."""
        raise TypeError(f"{type(self).__name__} must define sequences(example)")

    def prepare(self, examples: list[Example]) -> None:
        """Called once with each step's whole batch, before its losses."""

    def losses(self, batch: Batch[Example]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of some examples, `batch.rows`, and numbers to watch, each [examples]."""
        raise TypeError(f"{type(self).__name__} must define losses(batch)")


def take_step(
    optimizer: Optimizer,
    rows: Sequence[Item],
    sequences: Sequence[Sequences],
    loss: Callable[[Batch[Item]], Watched],
    *,
    ledger: Ledger,
    names: Sequence[str],
    by_prompt: bool = False,
    by_place: bool = False,
    with_prompt: bool = False,
) -> Outcome:
    """One optimizer step on rows, divided among the processes and cut into micro-batches by the network's `batches`.

    names: of the rows or of what they belong to, after a word that says which; for the TrainingError, with the step,
    if the loss or the gradient is not finite.
    """
    network = optimizer.network
    hand = deal(sequences, share_prompts=network.packs)[processes.rank()] if processes.size() > 1 else range(len(rows))
    shard, own = [rows[i] for i in hand], [sequences[i] for i in hand]

    def batches() -> Iterable[Batch[Item]]:
        return network.batches(shard, own, by_prompt=by_prompt, by_place=by_place, with_prompt=with_prompt)

    try:
        outcome = optimizer.step(batches, loss)
    except TrainingError as error:
        kind, *first = names[:5]
        raise TrainingError(f"step {ledger.optimizer_steps + 1}: {error} ({kind} {', '.join(first)}, ...)") from None
    ledger.trained_tokens += outcome.tokens
    return outcome


def fit(
    objective: Objective[Example],
    network: Network,
    *,
    ledger: Ledger,
    recipe: Recipe,
    watch: Callable[[float], dict[str, float]] = lambda share: {},
    parts: Mapping[str, Stateful] | None = None,
) -> None:
    """Train on `recipe.examples` draws: a fresh permutation each epoch, the same for everyone with the same seed.

    A step's loss is the mean over the whole batch, however it is cut into micro-batches and divided among processes.
    watch(share of the steps done) is called after each step, and what it returns is logged with it. Now and then all is
    saved, `parts` too, and a training that was stopped goes on from there.
    """
    examples, batch_size = objective.examples, min(recipe.batch_size, recipe.examples)
    steps = recipe.examples // batch_size
    optimizer = Optimizer(
        network,
        lr=recipe.lr,
        total_steps=steps,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
    )
    held: dict[str, Stateful] = {"weights": Weights(optimizer.parameters), "optimizer": optimizer, "ledger": ledger}
    held |= parts or {}
    checkpoints = StepCheckpoints(ledger.out, ledger.phase(recipe.label), steps, held, every=recipe.checkpoint_every)

    def loss(batch: Batch[Example]) -> Watched:
        losses, metrics = objective.losses(batch)
        return losses.sum() / batch_size, reader({name: values.detach().sum() for name, values in metrics.items()})

    first = checkpoints.restore()
    order = islice(shuffled(len(examples), recipe.seed), first * batch_size, None)
    for number in checkpoints.steps(first, recipe.label):
        batch = [examples[next(order)] for _ in range(batch_size)]
        objective.prepare(batch)
        lr_now = optimizer.lr
        sequences = [objective.sequences(example) for example in batch]
        names = ["rows", *(str(getattr(example, "id", "?")) for example in batch[:4])]
        outcome = take_step(
            optimizer,
            batch,
            sequences,
            loss,
            ledger=ledger,
            names=names,
            by_place=objective.by_place,
            with_prompt=objective.with_prompt,
        )
        ledger.optimizer_steps += 1
        ledger.examples += batch_size
        means = {name: value / batch_size for name, value in outcome.watched.items()}
        shown = watch((number + 1) / steps)
        ledger.log(loss=outcome.loss, grad_norm=outcome.grad_norm, lr=lr_now, **means, **shown)
    optimizer.finish()
