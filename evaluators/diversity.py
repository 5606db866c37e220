"""Alignment's effects on the text itself: diversity within and across inputs, repetition, entropy.

Kirk et al. (2024, arXiv:2310.06452) measure per-input diversity (among several responses to one prompt) and
across-input diversity (among responses to different prompts); alignment may cost either. Words are what stands between
white space.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from ..results.records import Generation, Score
from .base import OpenPolicy, OtherTokens

Words = list[str]


@dataclass(frozen=True)
class Diversity:
    """Yields `distinct.N.across`, `self_bleu.across` and `repetition.N`, from the responses alone.

    `distinct.N.across`: distinct n-grams over all n-grams of all responses (Li et al. 2016, arXiv:1510.03055); a
    prompt's value is its share of that corpus figure, so the mean over prompts is the figure. `self_bleu.across`:
    BLEU-4 of a response against responses to other prompts (Zhu et al. 2018, arXiv:1802.01886), low is diverse.
    `repetition.N`: share of a response's n-grams that repeat an earlier one, 0 where it is too short to have any.
    """

    ngrams: tuple[Annotated[int, Gt(0)], ...] = (1, 2)
    """Lengths of the n-grams of distinct-n, in words."""
    repeated: Annotated[int, Gt(0)] = 3
    """Length of the n-grams that count as repetition, in words."""
    references: Annotated[int, Ge(0)] = 50
    """Responses to other prompts that each is compared with by BLEU, the same prompts for every method; 0 leaves
    self-BLEU out."""

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        ids, texts = [r.prompt_id for r in responses], [r.response.split() for r in responses]
        for n in self.ngrams:
            for prompt_id, value in zip(ids, distinct_shares(texts, n), strict=True):
                yield Score(f"distinct.{n}.across", prompt_id, value)
        for prompt_id, words in zip(ids, texts, strict=True):
            yield Score(f"repetition.{self.repeated}", prompt_id, repetition(words, self.repeated))
        if self.references and len(texts) > 1:
            pool = _drawn(ids, self.references + 1)
            for place, (prompt_id, words) in enumerate(zip(ids, texts, strict=True)):
                others = [texts[i] for i in pool if i != place][: self.references]
                yield Score("self_bleu.across", prompt_id, bleu(words, others))


@dataclass(frozen=True)
class PolicyDiversity:
    """Yields `entropy`, and `distinct.N.within` and `self_bleu.within` from several responses to the same prompt."""

    samples: Annotated[int, Gt(1)] = 4
    """Responses that are sampled to each prompt."""
    prompts: Annotated[int, Gt(0)] = 50
    """Prompts that get several responses, the same ones for every method."""
    ngrams: tuple[Annotated[int, Gt(0)], ...] = (1, 2)
    """Lengths of the n-grams of distinct-n, in words."""

    needs_policy = True

    @property
    def draws(self) -> int:
        return self.prompts * self.samples

    def score(
        self,
        responses: Sequence[Generation],
        baseline: Sequence[Generation],
        *,
        policy: OpenPolicy,
        reference: OpenPolicy,
    ) -> Iterator[Score]:
        entropies: Sequence[float | None] = [r.entropy for r in responses]
        with suppress(OtherTokens):
            if None in entropies:  # nobody computed them with the responses
                entropies = policy.entropies([(r.prompt, r.response) for r in responses])
            for response, value in zip(responses, entropies, strict=True):
                yield Score("entropy", response.prompt_id, value)
        chosen = [responses[i] for i in _drawn([r.prompt_id for r in responses], self.prompts)]
        drawn = policy.sample([r.prompt for r in chosen for _ in range(self.samples)], seed=0)
        for place, response in enumerate(chosen):
            mine = drawn[place * self.samples : (place + 1) * self.samples]
            texts = [g.response.split() for g in mine]
            for n in self.ngrams:
                yield Score(f"distinct.{n}.within", response.prompt_id, distinct(texts, n))
            scores = [bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)]
            yield Score("self_bleu.within", response.prompt_id, sum(scores) / len(scores))


def distinct(texts: Sequence[Words], n: int) -> float | None:
    """Distinct n-grams over all n-grams of some texts together; None where there is no n-gram."""
    counts = Counter(gram for words in texts for gram in grams(words, n))
    return len(counts) / counts.total() if counts else None


def distinct_shares(texts: Sequence[Words], n: int) -> list[float | None]:
    """One value a text, whose mean over the texts is `distinct` of all: each n-gram's 1 is shared by its uses."""
    counts = Counter(gram for words in texts for gram in grams(words, n))
    if not counts:
        return [None] * len(texts)
    scale = len(texts) / counts.total()
    return [scale * sum(1 / counts[gram] for gram in grams(words, n)) for words in texts]


def repetition(words: Words, n: int) -> float:
    """Share of n-grams that occurred before in the same text; 0 where there is no n-gram."""
    all_grams = grams(words, n)
    return 1 - len(set(all_grams)) / len(all_grams) if all_grams else 0.0


def bleu(words: Words, references: Sequence[Words]) -> float:
    """Sentence BLEU-4 with smoothing 1 of Chen and Cherry (2014), 0 to 1; an empty text equals only an empty one."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    if not words:
        return float([] in references)
    return float(sentence_bleu(references, words, smoothing_function=SmoothingFunction().method1))


def grams(words: Words, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text in order, repeats included."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _drawn(prompt_ids: Sequence[str], count: int) -> list[int]:
    """Places of the first `count` prompts in the order of their hashes: the same for every method, and a fair draw."""
    order = sorted(range(len(prompt_ids)), key=lambda i: hashlib.sha256(prompt_ids[i].encode()).digest())
    return order[:count]
