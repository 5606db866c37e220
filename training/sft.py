"""SFT: the base model fine-tuned on replies; the checkpoint from which every method starts."""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..models.checkpoint import Checkpoint, open_network
from ..models.kept_values import write_kept
from ..models.layout import Batch, Sequences
from ..models.merging import save_merged
from ..models.policy import Policy
from ..models.tuning import Tuning
from ..results.lazy import LazySequence, chunks
from ..results.records import Ids, Pair, Prompt, RatedReply
from ..results.store import GATE, MODEL
from ..runtime import processes
from .ledger import Ledger
from .loop import Objective, Recipe, fit


@dataclass(frozen=True)
class Example:
    """One row of SFT: a prompt and the reply to imitate."""

    id: str
    """Of the pair, or the demonstration, it comes from."""
    prompt: Prompt
    response: Ids


class Imitation(Objective[Example]):
    """Replies are to become likelier. Every token weighs the same: a mean over each reply's own would teach brevity."""

    def __init__(self, policy: Policy, rows: Sequence[Example]):
        self.policy, self.examples = policy, rows
        self.tokens = sum(len(e.response) for e in rows) / max(1, len(rows))  # of a reply, on average

    def sequences(self, example: Example) -> Sequences:
        return [(example.prompt.ids, example.response)]

    def losses(self, batch: Batch[Example]) -> tuple[Tensor, dict[str, Tensor]]:
        return -self.policy.logps(batch.layout).sum() / self.tokens, {}


def fine_tune(
    base: Checkpoint,
    tuning: Tuning,
    recipe: Recipe,
    train: Sequence[Example],
    heldout: Sequence[Example],
    out: Path,
) -> None:
    """Train the base on replies; writes out/model, a plain model (LoRA merged), and out/gate.json.

    gate.json: mean negative log-likelihood a token of held-out replies, base and SFT, one value a prompt. known.json:
    what SFT said of each.
    """
    gate = {"base": _tune(base, tuning, recipe, train, heldout, out)}
    gc.collect()  # the trained weights, before those on disk come beside them
    made = Checkpoint(processes.broadcast(out / MODEL), "")
    saved = Policy.open(made, tuning, trainable=False)  # what lies on disk is judged
    logps = _logps(saved, heldout)
    if processes.rank():
        return
    gate["sft"] = _losses(heldout, logps)
    (out / GATE).write_text(json.dumps(gate))
    write_kept(out / MODEL, [(e.prompt.ids, e.response) for e in heldout], logps)


def _tune(
    base: Checkpoint,
    tuning: Tuning,
    recipe: Recipe,
    train: Sequence[Example],
    heldout: Sequence[Example],
    out: Path,
) -> list[float]:
    """Train, and write out/model; the base's losses on held-out replies."""
    torch.manual_seed(0)
    policy = Policy(open_network(base.path, "lm", tuning, trainable=True), base.tokenizer())
    losses = _losses(heldout, _logps(policy, heldout))  # before the first step it is the base
    ledger = Ledger.of(policy.network, out)
    fit(Imitation(policy, train), policy.network, ledger=ledger, recipe=recipe)
    ledger.close()
    if not processes.rank():
        save_merged(policy.network, out / MODEL)
        policy.tokenizer.save_pretrained(out / MODEL)
    return losses


def examples(pairs: Sequence[Pair], *, both: bool) -> Sequence[Example]:
    """The rows that SFT imitates of some pairs: the chosen replies, then the rejected ones if both are asked for."""

    def example(place: int) -> Example:
        pair = pairs[place % len(pairs)]
        return Example(pair.id, pair.prompt, pair.chosen if place < len(pairs) else pair.rejected)

    return LazySequence(len(pairs) * (2 if both else 1), example)


def demonstrated(replies: Sequence[RatedReply]) -> Sequence[Example]:
    """The rows that SFT imitates where a team brings demonstrations of its own."""

    def example(place: int) -> Example:
        reply = replies[place]
        return Example(reply.id, reply.prompt, reply.ids)

    return LazySequence(len(replies), example)


def mean_by_prompt(rows: Sequence[Example], values: Sequence[float]) -> list[float]:
    """Mean value of each prompt's rows: rows of one prompt are not independent."""
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        groups.setdefault(row.prompt.id, []).append(value)
    return [sum(v) / len(v) for v in groups.values()]


def _logps(policy: Policy, examples: Sequence[Example]) -> list[float]:
    texts = ([(e.prompt.ids, e.response) for e in chunk] for chunk in chunks(examples))
    return [value for some in texts for value in policy.total_logps(some, together=True).tolist()]


def _losses(examples: Sequence[Example], logps: list[float]) -> list[float]:
    """Mean negative log-likelihood a token, one value a prompt."""
    return mean_by_prompt(examples, [-total / len(e.response) for e, total in zip(examples, logps, strict=True)])
