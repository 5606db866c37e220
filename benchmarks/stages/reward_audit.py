"""The reward models under audit: their scores of held-out and external pairs, in a stage of its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis.best_of import best_of, mean_of_subsets
from ...analysis.reward_audit import ScoredPair, audit_reward_model, compare_reward_models
from ...errors import InputError
from ...evaluators.reward_function import RewardFunction
from ...evaluators.reward_model import RewardModelWinRate
from ...models.chat import as_sampled, encode_response
from ...preferences.read import read_preferences
from ...results.integrity import code_digest, digest, digest_each
from ...results.lazy import LazySequence
from ...results.records import Generation, LabelledPair
from ...results.store import Stage, read_jsonl, write_jsonl
from ..context import SCORING_CODE, Workshop
from ..data.arrow_columns import prompt_id
from ..data.corpus import Corpus
from ..data.prompts import show

PAIRS = "pairs.jsonl"


def score_pairs(
    shop: Workshop,
    model: RewardModelWinRate | RewardFunction,
    key: str,
    tokenizer: Any,
    pairs: Sequence[LabelledPair],
) -> Stage:
    """The stage of a reward's scores of both replies of each pair; key: hash of the model's files, or the function's.

    Lengths are in tokens of the benchmark's tokenizer, the same for every reward model.
    """

    def build(out: Path) -> None:
        sides = LazySequence(2 * len(pairs), lambda i: _generation(pairs[i // 2], i % 2))
        found = model.rewards(sides)

        def scored(place: int, pair: LabelledPair) -> ScoredPair:
            chosen, rejected = found[2 * place : 2 * place + 2]
            texts = zip((pair.chosen, pair.rejected), pair.cut, strict=True)
            ours, theirs = (len(encode_response(tokenizer, text, cut)) for text, cut in texts)
            return ScoredPair(pair.prompt_id, pair.subset, chosen, rejected, ours, theirs)

        write_jsonl(out / PAIRS, (scored(place, pair) for place, pair in enumerate(pairs)))

    inputs = {
        "code": code_digest(*SCORING_CODE),
        "model": key,
        "own": not isinstance(model, RewardModelWinRate) or model.tuning is None,
        "tuning": shop.tuning.identity(),
        "packages": shop.packages,
        "tokenizer": digest(tokenizer.get_vocab()),
        "pairs": digest_each(dataclasses.asdict(pair) for pair in pairs),
    }
    return shop.store.stage("reward_audit", inputs, build)


def read_scored(stage: Stage) -> list[ScoredPair]:
    """The pairs of a stage of `score_pairs`."""
    return [ScoredPair(**row) for row in read_jsonl(stage.path / PAIRS)]


def audit(
    shop: Workshop,
    models: Mapping[str, tuple[RewardModelWinRate | RewardFunction, str]],
    tokenizer: Any,
    heldout: Sequence[LabelledPair],
    external: tuple[str, Sequence[LabelledPair], int] | None,
) -> dict[str, Any]:
    """For summary.json: each reward model on held-out pairs and, if given, on external ones; and their agreement.

    models: by role, each with the hash of its files. external: source, pairs, and how many were left out.
    """
    sets = {"heldout": heldout} | ({"external": external[1]} if external else {})
    found: dict[str, Any] = {}
    for name, pairs in sets.items():
        scored = {
            role: read_scored(score_pairs(shop, model, key, tokenizer, pairs)) for role, (model, key) in models.items()
        }
        found[name] = {"models": {role: audit_reward_model(rows) for role, rows in scored.items()}}
        if len(scored) == 2:
            found[name] |= compare_reward_models(*scored.values())
        for role, row in found[name]["models"].items():
            row["best_of"] = best_of(pairs, scored[role])
            row["mean_of_subsets"] = mean_of_subsets({s: part["accuracy"] for s, part in row["subsets"].items()})
    if external:
        found["external"] |= {"source": external[0], "left_out": external[2]}
    return found


def read_external(source: str, corpus: Corpus, tokenizer: Any) -> tuple[str, list[LabelledPair], int]:
    """Labelled pairs from elsewhere; those that the template refuses, or whose prompt the model saw in the benchmark's
    own pairs, are left out and counted.

    InputError where none is left.
    """
    known = corpus.prompt_hashes("sft", "training", "evaluation", "heldout")
    kept, left_out = [], 0
    for row in read_preferences(source):
        (shown,) = show(tokenizer, [row.prompt])
        if isinstance(shown, str) or np.isin(np.uint64(shown.hash), known):
            left_out += 1
            continue
        chosen = as_sampled(tokenizer, shown.text, row.chosen, row.cut[0])
        rejected = as_sampled(tokenizer, shown.text, row.rejected, row.cut[1])
        kept.append(LabelledPair(prompt_id(row.prompt), row.prompt, chosen, rejected, row.subset, row.cut))
    if not kept:
        raise InputError(
            f"--external-pairs {source}: the benchmark has all of its {left_out} prompts itself, or the chat template "
            f"refuses them; give pairs on other prompts"
        )
    return source, kept, left_out


def _generation(pair: LabelledPair, side: int) -> Generation:
    return Generation(
        pair.prompt_id, pair.prompt, (pair.chosen, pair.rejected)[side], length=0, finished=not pair.cut[side]
    )
