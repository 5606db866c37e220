"""Signals of a training gone wrong, the same for every method: drift, collapse, length, repetition, displacement."""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from ..models.checkpoint import Checkpoint
from ..models.layout import Sequences, count_tokens
from ..models.policy import Policy
from ..models.sampler import Sample
from ..models.sampling import sample
from ..models.tuning import Tuning
from .ledger import Ledger
from .task import TrainingTask, shuffled

PAIRS, PROMPTS = 16, 16
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the training, when the probe looks


class Probe:
    """Looks at a policy on the same pairs and prompts for every method and seed, four times in a training.

    On up to 16 training pairs: `chosen_displacement` and `rejected_displacement`, log pi - log pi_SFT of the response
    in nats (both below 0: probability flows to responses nobody asked for, Razin et al. 2024, arXiv:2410.08847), their
    difference `implicit_margin`, and `implicit_accuracy`, the share in which it is positive. On responses to up to 16
    prompts, if `with_samples`: exact `kl` to SFT in nats a response, `entropy` in nats a token, and what
    `response_signals` sees. All that it spends goes to the ledger as spent on looking.
    """

    def __init__(self, task: TrainingTask, policy: Policy, ledger: Ledger, *, with_samples: bool):
        self.policy, self.ledger, self.with_samples = policy, ledger, with_samples
        self.max_new_tokens = task.prompts.max_new_tokens
        with ledger.looking():
            self.reference = Policy.open(task.sft, task.tuning, trainable=False)
            pairs = _first(task.pairs.pairs, PAIRS)
            self.prompts = _first(task.prompts.prompts, PROMPTS)
            self.sides = tuple((p.prompt.ids, reply) for p in pairs for reply in (p.chosen, p.rejected))
            ledger.looking_scored_tokens += count_tokens(self.sides)  # though another cell did: costs are of one
            self.start = _logps_of_sft(task.sft, task.tuning, self.sides)
        self.shares = list(SHARES)

    def state_dict(self) -> dict[str, Any]:
        return {"shares": self.shares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shares = state["shares"]

    def __call__(self, share: float) -> dict[str, float]:
        """The values to log when this share of the training is done: none, most of the time."""
        if not self.shares or share < self.shares[0]:
            return {}
        self.shares = [later for later in self.shares if later > share]
        with self.ledger.looking():
            return self._pairs() | (self._samples() if self.with_samples and self.prompts else {})

    def _pairs(self) -> dict[str, float]:
        if not self.sides:
            return {}
        self.ledger.looking_scored_tokens += count_tokens(self.sides)
        chosen, rejected = (self.policy.total_logps(self.sides, together=True) - self.start).view(-1, 2).T
        return {
            "chosen_displacement": float(chosen.mean()),
            "rejected_displacement": float(rejected.mean()),
            "implicit_margin": float((chosen - rejected).mean()),
            "implicit_accuracy": float((chosen > rejected).float().mean()),
        }

    def _samples(self) -> dict[str, float]:
        samples = sample(self.policy, self.prompts, max_new_tokens=self.max_new_tokens, seed=0, together=True)
        sequences = [(s.prompt.ids, s.ids) for s in samples]
        self.ledger.looking_generated_tokens += sum(len(s.ids) for s in samples)
        self.ledger.looking_scored_tokens += 2 * count_tokens(sequences)
        _, kls, logps = self.policy.entropy_kl_logps(sequences, self.reference, together=True)
        entropy = -sum(logps) / sum(len(s.ids) for s in samples)
        return {"kl": sum(kls) / len(kls), "entropy": entropy, **response_signals(samples)}


def response_signals(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean length in tokens, share that ended by itself, and mean repetition of sampled responses."""
    return {
        "length": sum(len(s.ids) for s in samples) / len(samples),
        "eos_rate": sum(s.finished for s in samples) / len(samples),
        "repetition": sum(repetition(s.ids) for s in samples) / len(samples),
    }


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """Share of the n-grams that stood in the same response before; Welleck et al. (2019, arXiv:1908.04319), seq-rep-n.

    0 for a response of fewer than n tokens.
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@lru_cache(maxsize=1)
def _logps_of_sft(sft: Checkpoint, tuning: Tuning, sequences: Sequences) -> torch.Tensor:
    """SFT's log-probs, from which the probes of all methods and seeds start."""
    return Policy.open(sft, tuning, trainable=False).total_logps(sequences, together=True)


def _first(rows: Sequence, count: int) -> list:
    """A fixed random choice of rows, the same for every method and seed."""
    return [rows[i] for i in itertools.islice(shuffled(len(rows), 0), min(count, len(rows)))]
