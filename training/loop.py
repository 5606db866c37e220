"""The one optimizer loop: SFT, reward models and every method train through it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.layout import Sequences
from ..models.network import Network
from ..results.store import EVERY
from ..runtime import processes
from ..runtime.sharding import divided_like, full
from ..runtime.zero import Zero
from .ledger import Ledger
from .resume import Stateful, StepCheckpoints, Weights
from .task import shuffled

Example = TypeVar("Example")


def rise_and_fall(total_steps: int, warmup: float) -> Callable[[int], float]:
    """Share of the peak learning rate at each step: up linearly over a share of the steps, then down to 0."""
    rising = max(1, math.ceil(warmup * total_steps))
    return lambda step: min((step + 1) / rising, max(0.0, (total_steps - step) / max(1, total_steps - rising)))


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
        self.parameters = [*own, *of_head]
        self.max_grad_norm = max_grad_norm
        fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters)
        self.adam = torch.optim.AdamW(
            [{"params": own}, *([{"params": of_head, "lr": head_lr}] if of_head else [])],
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
        return self.schedule.get_last_lr()[0]

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
                i, _, name = key.partition(" ")
                moments.setdefault(int(i), {})[name] = value
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

    def step(self, losses: Callable[[], Iterable[Tensor]]) -> dict[str, float]:
        """One update on the sum of the losses, each freed after its backward pass. Returns loss and grad_norm.

        losses() yields them; when memory runs out it is called again, and finds the network willing to take less.
        With several processes each yields those of its own rows, and the sum is over all.

        TrainingError, with the weights untouched, if the loss or the gradient is not finite.
        """
        total = self._add_up(self._backward(losses))
        updated = self.zero.shares if self.zero else self.parameters
        norm = full(nn.utils.get_total_norm([p.grad for p in updated if p.grad is not None]))
        if self.zero:
            norm = self.zero.norm(norm)
        nn.utils.clip_grads_with_norm_(updated, self.max_grad_norm, norm)
        if not math.isfinite(total) or not math.isfinite(norm):
            raise TrainingError(
                f"loss {total} with gradient norm {float(norm)}: lower the learning rate or look at these rows"
            )
        self.adam.step()
        if self.zero:
            self.zero.spread()
        self.schedule.step()
        return {"loss": total, "grad_norm": float(norm)}

    def _backward(self, losses: Callable[[], Iterable[Tensor]]) -> float:
        """Put the gradient of the losses' sum into the weights and return the sum.

        Where weights or gradients are divided, all processes make every pass together: none can start again or fail
        alone.
        """
        together = self.divided or (self.zero and self.zero.stage == 2)
        while True:
            self.adam.zero_grad(set_to_none=True)
            if self.zero:
                self.zero.clear()
            total = 0.0
            try:
                for loss in losses():
                    self.zero.backward(loss) if self.zero else loss.backward()
                    total += loss.item()
                if self.divided:
                    self.network.join_passes()
                if self.zero:
                    self.zero.join_passes()
                return total
            except Exception as error:
                if together and not getattr(error, "told", False):
                    processes.end_all(error)
                if not isinstance(error, (RuntimeError, MemoryError)):
                    raise
                self.network.use_less_memory(error)

    def _add_up(self, total: float) -> float:
        """Add up loss and gradients over all processes; a weight without gradient in one of them counts 0 there.

        Gradients of divided weights were added up in the backward pass.
        """
        if processes.size() == 1:
            return total
        if self.zero:
            self.zero.add_up()
        if self.divided or self.zero:
            return sum(processes.gather(total))
        heard = processes.gather((total, [p.grad is not None for p in self.parameters]))
        totals, given = zip(*heard, strict=True)
        used = [p for p, *anywhere in zip(self.parameters, *given, strict=True) if any(anywhere)]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        processes.add_up([p.grad for p in used])
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
        if not all(bool(torch.isfinite(p).all()) for p in self.network.parameters):
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
    checkpoint_every: float = EVERY
    """Seconds between the checkpoints from which a training that was stopped goes on."""


def fit(
    examples: Sequence[Example],
    network: Network,
    loss: Callable[[list[Example]], tuple[Tensor, dict[str, Tensor]]],
    sequences: Callable[[Example], Sequences],
    *,
    ledger: Ledger,
    recipe: Recipe,
    prepare: Callable[[list[Example]], None] = lambda batch: None,
    watch: Callable[[float], dict[str, float]] = lambda share: {},
    parts: Mapping[str, Stateful] | None = None,
) -> None:
    """Train on `recipe.examples` draws: a fresh permutation each epoch, the same for everyone with the same seed.

    loss(batch) returns the losses [batch] and metrics [batch] of some examples; the step's loss is their mean over
    the whole batch, however it is cut into micro-batches and divided among processes. sequences(example): what of it
    goes through the network. prepare(batch) is called once with each whole batch, before its losses; watch(share of
    the steps done) after each step, and what it returns is logged with it. Now and then all is
    saved, `parts` too, and a training that was stopped goes on from there.
    """
    batch_size = min(recipe.batch_size, recipe.examples)
    steps = recipe.examples // batch_size
    optimizer = Optimizer(
        network,
        lr=recipe.lr,
        total_steps=steps,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
    )
    held = {"weights": Weights(optimizer.parameters), "optimizer": optimizer, "ledger": ledger, **(parts or {})}
    checkpoints = StepCheckpoints(ledger.out, ledger.phase(recipe.label), steps, held, every=recipe.checkpoint_every)
    first = checkpoints.restore()
    order = islice(shuffled(len(examples), recipe.seed), first * batch_size, None)
    for number in checkpoints.steps(first, recipe.label):
        batch = [examples[next(order)] for _ in range(batch_size)]
        sums: dict[str, float] = {}
        prepare(batch)
        share, tokens = processes.mine(batch), ledger.trained_tokens

        def micro_losses(share=share, sums=sums) -> Iterable[Tensor]:
            sums.clear()
            for group in network.cut([network.size_of(sequences(e)) for e in share]):
                losses, metrics = loss([share[i] for i in group])
                for name, values in metrics.items():
                    sums[name] = sums.get(name, 0.0) + float(values.detach().sum())
                yield losses.sum() / batch_size

        lr_now = optimizer.lr
        try:
            outcome = optimizer.step(micro_losses)
        except TrainingError as error:
            rows = ", ".join(str(getattr(e, "id", "?")) for e in batch[:4])
            raise TrainingError(f"step {ledger.optimizer_steps + 1}: {error} (rows {rows}, ...)") from None
        ledger.optimizer_steps += 1
        ledger.examples += batch_size
        ledger.add_up_tokens(since=tokens)
        means = {name: value / batch_size for name, value in processes.added(sums).items()}
        ledger.log(**outcome, lr=lr_now, **means, **watch((number + 1) / steps))
    optimizer.finish()
