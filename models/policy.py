"""A policy: a causal language model that samples responses and tells their log-probabilities."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..runtime.device import constants
from .checkpoint import Checkpoint, open_network
from .layout import Layout, Sequences
from .network import Network
from .shared_work import Source, shared
from .tuning import Tuning
from .turn_end import stop_ids


@dataclass(frozen=True)
class TokenValues:
    """One value a target: values and mask [sequences, longest], mask true on real ones, values 0 elsewhere."""

    values: Tensor
    mask: Tensor

    @classmethod
    def spread(cls, values: Tensor, mask: Tensor) -> "TokenValues":
        """From the values [targets] of all rows, one after another."""
        return cls(torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values), mask)

    def sum(self) -> Tensor:
        """[batch]"""
        return self.values.sum(1)

    def mean(self) -> Tensor:
        """[batch]"""
        return self.values.sum(1) / self.mask.sum(1)

    def rows(self) -> list[list[float]]:
        """The real values of each row."""
        return [row[:count] for row, count in zip(self.values.tolist(), self.mask.sum(1).tolist(), strict=True)]

    def where(self, kept: Tensor) -> "TokenValues":
        """Only the tokens [batch, time] that are kept."""
        return TokenValues(self.values * kept, self.mask & kept)


class Policy:
    """A causal language model, trainable or frozen, with its tokenizer."""

    def __init__(self, network: Network, tokenizer):
        self.network, self.tokenizer = network, tokenizer
        self.device = network.tuning.device
        self.most_rows: int | None = None  # sampled at once, after the memory did not hold more
        self.source: Source | None = None  # of one that is looked at and not trained

    @classmethod
    def open(cls, checkpoint: Checkpoint, tuning: Tuning, *, trainable: bool) -> "Policy":
        """Trainable: a copy of the checkpoint (or a fresh adapter on it); frozen: the shared checkpoint itself."""
        policy = cls(open_network(checkpoint.path, "lm", tuning, trainable=trainable), checkpoint.tokenizer())
        if not trainable:
            policy.source = Source(_open_frozen, (checkpoint, tuning))
        return policy

    @property
    def stops(self) -> frozenset[int]:
        """Ids that end a response."""
        return stop_ids(self.tokenizer, self.network.model)

    def logps(self, of: Layout | Sequences, temperature: float = 1.0) -> TokenValues:
        """Log-probability of each target given what stands before it; gradients flow if enabled.

        The log-prob of the token at position t comes from the logits at t - 1, divided by the temperature. Only
        positions that predict a target go through the vocabulary head. Sequences go in one pass.
        """
        layout = self.network.laid_out(of)
        return self.logps_of(self.network.hidden(layout, layout.before), layout, temperature)

    def logps_of(self, states: Tensor, layout: Layout, temperature: float = 1.0) -> TokenValues:
        """The same, from the states [targets, width] before the targets."""
        return TokenValues.spread(self.network.target_logps(states, layout.targets, temperature), layout.mask)

    def logits(self, of: Layout | Sequences) -> Tensor:
        """[targets, vocabulary], before each target."""
        layout = self.network.laid_out(of)
        states = self.network.hidden(layout, layout.before)
        with self.network.autocast():
            return self.network.head(states)

    def log_softmax(self, states: Tensor) -> Tensor:
        """Log-probabilities [states, vocabulary] of all next tokens, fp32."""
        with self.network.autocast():
            logits = self.network.head(states)
        return torch.log_softmax(logits.float(), dim=-1)

    def kl(self, sequences: Sequences, reference: "Policy") -> list[float]:
        """KL(self || reference) in nats, exact over the vocabulary at each response token, summed over the tokens."""
        return self.entropy_kl_logps(sequences, reference)[1]

    @shared
    def entropy_kl_logps(
        self, sequences: Sequences, reference: "Policy | None", *, together: bool = False
    ) -> tuple[list[float], list[float], list[float]]:
        """Of each response the entropy of the next token, mean over its tokens; the KL as in `kl`; the summed log-prob.

        All in nats, entropy and KL exact over the vocabulary. None as the reference is this policy itself: the KL is 0.
        together: see `shared_work.py`.
        """

        def measure(layout: Layout) -> Iterable[tuple[float, float, float]]:
            policies = [self, reference] if reference else [self]
            states = [policy.network.hidden(layout, layout.before) for policy in policies]
            vocabulary = self.network.model.config.get_text_config().vocab_size
            rows = max(1, constants(self.device).vocabulary_numbers // vocabulary)
            found = []
            for *parts, tokens in zip(*(each.split(rows) for each in states), layout.targets.split(rows), strict=True):
                each = [policy.log_softmax(part) for policy, part in zip(policies, parts, strict=True)]
                found.append(_entropy_kl_logps(each[0], each[1] if reference else None, tokens))
                del each  # before the next piece
            entropies, kls, logps = (torch.cat(values) for values in zip(*found, strict=True))
            means = TokenValues.spread(entropies, layout.mask).mean().tolist()
            totals = (TokenValues.spread(values, layout.mask).sum().tolist() for values in (kls, logps))
            return zip(means, *totals, strict=True)

        beside = reference.network if reference else None
        found = self.network.over_distinct(sequences, measure, beside=beside, together=together)
        entropies, kls, logps = ([values[i] for values in found] for i in range(3))
        return entropies, kls, logps

    @shared
    def total_logps(self, sequences: Sequences, *, together: bool = False) -> Tensor:
        """Summed response log-probs [sequences], on the CPU, without gradients; each distinct one is computed once.

        together: see `shared_work.py`.
        """
        sums = lambda layout: self.logps(layout).sum().tolist()  # noqa: E731  (too short for a name of its own)
        totals = self.network.over_distinct(sequences, sums, together=together)
        return torch.tensor(totals, dtype=torch.float32)

    def save(self, folder: Path) -> None:
        self.network.save(folder, self.tokenizer)


def _open_frozen(checkpoint: Checkpoint, tuning: Tuning) -> Policy:
    return Policy.open(checkpoint, tuning, trainable=False)


def _entropy_kl_logps(ours: Tensor, theirs: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the log-probabilities [rows, vocabulary] of one piece, each [rows]; theirs: None for a KL of 0."""
    shares = ours.exp()
    entropies, kls = -(shares * ours).sum(-1), torch.zeros(len(ours), device=ours.device)
    if theirs is not None:
        kls = (shares * (ours - theirs)).sum(-1)
    return entropies, kls, ours.gather(1, tokens[:, None])[:, 0]
