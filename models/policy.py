"""A policy: a causal language model that samples responses and tells their log-probabilities."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..results.records import Ids
from .checkpoint import Checkpoint, open_network
from .layout import Layout, Sequences
from .network import Network
from .tuning import Tuning


@dataclass(frozen=True)
class TokenValues:
    """One value a response token: values and mask [batch, time], mask true on real tokens, values 0 elsewhere."""

    values: Tensor
    mask: Tensor

    @classmethod
    def spread(cls, values: Tensor, mask: Tensor) -> "TokenValues":
        """From the values [real tokens] of all rows, one after another."""
        return cls(torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values), mask)

    def sum(self) -> Tensor:
        """[batch]"""
        return self.values.sum(1)

    def mean(self) -> Tensor:
        """[batch]"""
        return self.values.sum(1) / self.mask.sum(1)

    def where(self, kept: Tensor) -> "TokenValues":
        """Only the tokens [batch, time] that are kept."""
        return TokenValues(self.values * kept, self.mask & kept)


class Policy:
    """A causal language model, trainable or frozen, with its tokenizer."""

    def __init__(self, network: Network, tokenizer):
        self.network, self.tokenizer = network, tokenizer
        self.device = network.tuning.device
        self.most_rows: int | None = None  # sampled at once, after the memory did not hold more

    @classmethod
    def open(cls, checkpoint: Checkpoint, tuning: Tuning, *, trainable: bool) -> "Policy":
        """Trainable: a copy of the checkpoint (or a fresh adapter on it); frozen: the shared checkpoint itself."""
        return cls(open_network(checkpoint.path, "lm", tuning, trainable=trainable), checkpoint.tokenizer())

    def logps(self, sequences: Sequences, temperature: float = 1.0, with_prompt: Collection[int] = ()) -> TokenValues:
        """Log-probability of each response token given what stands before it; gradients flow if enabled.

        The log-prob of the token at position t comes from the logits at t - 1, divided by the temperature. Only
        positions that predict a response token go through the vocabulary head. with_prompt: indices of sequences whose
        prompt's tokens, from the second on, come before those of the response.
        """
        return self.logps_of(*self.response_states(sequences, with_prompt), temperature)

    def logps_of(self, states: Tensor, layout: Layout, temperature: float = 1.0) -> TokenValues:
        """The same, from the states that `response_states` gives."""
        return TokenValues.spread(self.network.target_logps(states, layout.targets, temperature), layout.mask)

    def kl(self, sequences: Sequences, reference: "Policy") -> list[float]:
        """KL(self || reference) in nats, exact over the vocabulary at each response token, summed over the tokens."""
        return self.entropy_kl_logps(sequences, reference)[1]

    @torch.no_grad()
    def entropy_kl_logps(
        self, sequences: Sequences, reference: "Policy | None"
    ) -> tuple[list[float], list[float], list[float]]:
        """Of each response the entropy of the next token, mean over its tokens; the KL as in `kl`; the summed log-prob.

        All in nats, entropy and KL exact over the vocabulary. None as the reference is this policy itself: the KL is 0.
        """
        distinct = list(dict.fromkeys(sequences))
        found = {}

        def measure(group: list[int]) -> None:
            rows = [distinct[i] for i in group]
            logits, tokens, mask = self.response_logits(rows)
            ours = torch.log_softmax(logits.float(), dim=-1)
            entropies, kls = -(ours.exp() * ours).sum(-1), torch.zeros(len(ours), device=self.device)
            if reference:
                theirs = torch.log_softmax(reference.response_logits(rows)[0].float(), dim=-1)
                kls = (ours.exp() * (ours - theirs)).sum(-1)
            means = TokenValues.spread(entropies, mask).mean().tolist()
            logps = ours.gather(1, tokens[:, None])[:, 0]
            totals = (TokenValues.spread(values, mask).sum().tolist() for values in (kls, logps))
            found.update(zip(rows, zip(means, *totals, strict=True), strict=True))

        self.network.in_groups(distinct, measure)
        return tuple([found[row][i] for row in sequences] for i in range(3))

    @torch.no_grad()
    def total_logps(self, sequences: Sequences) -> Tensor:
        """Summed response log-probs [sequences], on the CPU, without gradients; each distinct one is computed once."""
        places: dict[tuple[Ids, Ids], int] = {}
        which = [places.setdefault(row, len(places)) for row in sequences]
        distinct, totals = list(places), torch.zeros(len(places))

        def measure(group: list[int]) -> None:
            totals[group] = self.logps([distinct[i] for i in group]).sum().cpu()

        self.network.in_groups(distinct, measure)
        return totals[which]

    def save(self, folder: Path) -> None:
        self.network.save(folder, self.tokenizer)

    def response_logits(self, sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [response tokens, vocabulary], the tokens themselves, and the mask [batch, time] they fill."""
        states, layout = self.response_states(sequences)
        with self.network.autocast():
            return self.network.head(states), layout.targets, layout.mask

    def response_states(self, sequences: Sequences, with_prompt: Collection[int] = ()) -> tuple[Tensor, Layout]:
        """Last hidden states [response tokens, width] from which each response token is predicted, and the layout."""
        layout = self.network.lay_out(sequences, with_prompt)
        return self.network.hidden(layout).index_select(0, layout.before), layout
