"""The audit of a preference set: what is in it, what is wrong with it, how far its labellers agree, what to fix first.

Each check is a function of the judgements that gives a `Section`: what was found in words and a table, and an `Advice`
where something should be done. Text and HTML page are written from the same sections.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis.statistics import Interval
from ..errors import InputError
from .audit_agreement import agreement_sections
from .findings import Advice, Section, cells
from .judgements import Judgement, Judgements
from .read import split_by_prompt

SHINGLE = 3  # words
NEAR = 0.8  # Jaccard similarity of two prompts' shingles from which they are near-duplicates
ALIKE = 0.95  # similarity (1 - edit distance / length) from which a pair's two responses are nearly the same
FEW = 30  # judgements below which a bias is not claimed


@dataclass(frozen=True)
class Tokens:
    """The counter of tokens, and how many fit."""

    name: str
    count: Callable[[Judgement], int]
    """Tokens of the prompt and the longer response."""
    context: int


def audit(data: Judgements, against: Judgements | None = None, tokens: Tokens | None = None) -> list[Section]:
    """All checks in their order, "What to fix first" last, where a terminal shows it; the page begins with it."""
    clusters = near_duplicates(sorted({row.prompt_text for row in data.rows}))
    sections = [
        rows_section(data),
        duplicates_section(data, clusters),
        splits_section(data, clusters, against),
        contradictions_section(data),
        bias_section(data),
        tokens_section(data, tokens),
        sources_section(data),
        *agreement_sections(data),
    ]
    advice = sorted((a for s in sections for a in s.advice), key=lambda a: -a.weight)
    said = [f"{place}. {a.text}" for place, a in enumerate(advice, 1)]
    return [*sections, Section("What to fix first", said or ["Nothing that these checks can see needs repair."])]


def rows_section(data: Judgements) -> Section:
    prompts, units = {r.prompt_text for r in data.rows}, {r.unit for r in data.rows}
    lost = sum(data.dropped.values())
    section = Section(
        "Rows",
        [
            f"{data.read} rows read ({data.kind}); {len(data.rows)} judgements of {len(units)} pairs under "
            f"{len(prompts)} prompts kept; {lost} dropped."
        ],
        ("Dropped because", "Count"),
        [(reason, str(count)) for reason, count in data.dropped.most_common()],
    )
    bad = lost - data.dropped["skipped by the labeller"]
    if bad:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in data.dropped.most_common(3))
        text = f"Look at the {bad} dropped rows ({reasons}); they are not trained on."
        section.advice.append(Advice(bad / (bad + len(data.rows)), text))
    return section


def near_duplicates(texts: Sequence[str]) -> list[set[str]]:
    """Groups of texts that share most of their three-word runs: MinHash finds candidates, Jaccard decides."""
    import networkx
    from datasketch import MinHash, MinHashLSH

    sets = {text: _shingles(text) for text in texts}
    index = MinHashLSH(threshold=NEAR - 0.1, num_perm=64)
    hashes: dict[str, MinHash] = {}
    graph = networkx.Graph()
    for text, shingles in sets.items():
        hashes[text] = MinHash(num_perm=64)
        hashes[text].update_batch([shingle.encode("utf-8", "replace") for shingle in shingles])
        for other in index.query(hashes[text]):
            if len(shingles & sets[other]) >= NEAR * len(shingles | sets[other]):
                graph.add_edge(text, other)
        index.insert(text, hashes[text])
    return [set(group) for group in networkx.connected_components(graph)]


def _shingles(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[i : i + SHINGLE]) for i in range(max(len(words) - SHINGLE + 1, 1))}


def duplicates_section(data: Judgements, clusters: list[set[str]]) -> Section:
    from rapidfuzz.distance import Levenshtein

    units = {row.unit: row for row in data.rows}
    again = len(data.rows) - len({(row.unit, row.labeller) for row in data.rows})
    alike = sum(Levenshtein.normalized_similarity(r.first, r.second, score_cutoff=ALIKE) > 0 for r in units.values())
    prompts = sum(map(len, clusters))
    section = Section(
        "Duplicates",
        [],
        ("Kind", "Count"),
        [
            ("rows that repeat another exactly (dropped)", str(data.dropped["duplicate row"])),
            ("judgements of a pair by a labeller who had judged it before", str(again)),
            ("pairs judged by several labellers (no fault)", str(sum(n > 1 for n in _labellers(data).values()))),
            (f"prompts nearly the same as another (Jaccard {NEAR} or more)", f"{prompts} (groups: {len(clusters)})"),
            (f"pairs whose responses are nearly the same ({ALIKE:.0%} or more)", str(alike)),
        ],
    )
    if alike:
        share = alike / len(units)
        text = f"{alike} of {len(units)} pairs ({share:.1%}), nearly the same response twice, teach little: leave out."
        section.advice.append(Advice(share / 2, text))
    return section


def _labellers(data: Judgements) -> dict[tuple, int]:
    by_unit: dict[tuple, set] = defaultdict(set)
    for row in data.rows:
        by_unit[row.unit].add(row.labeller)
    return {unit: len(names) for unit, names in by_unit.items()}


def splits_section(data: Judgements, clusters: list[set[str]], against: Judgements | None) -> Section:
    section = Section("Prompts on both sides of a split", [])
    side: dict[str, set[str]] = defaultdict(set)
    for row in data.rows:
        side[row.prompt_text].add(row.split or data.source)
    if against:
        for row in against.rows:
            side[row.prompt_text].add(against.source)
        clusters = near_duplicates(sorted(side))
    both = sum(len(names) > 1 for names in side.values())
    declared = len({name for names in side.values() for name in names}) > 1
    if declared:
        near = sum(len(set().union(*(side[text] for text in group))) > 1 for group in clusters)
        section.lines.append(
            f"{both} prompts stand on more than one side; near-duplicate groups that span several sides: {near}."
        )
        if both or near:
            text = (
                f"Prompts on both sides of the split: {both}, and {near} near-duplicate groups; what is measured there"
            )
            section.advice.append(Advice(1, f"{text} is partly memory. Take them out of one side."))
        return section
    rows = [_Prompted(row.prompt_text) for row in data.rows]
    try:
        parts = split_by_prompt(rows, {"training": 0.8, "held out": 0.2}, seed=0)
    except InputError:
        section.lines.append("One prompt cannot be split.")
        return section
    part_of = {row.prompt: name for name, part in parts.items() for row in part}
    near = sum(len({part_of[text] for text in group}) > 1 for group in clusters)
    section.lines.append(
        "No split is declared (a field `split`, or another file with --against). Divided by prompt as the suite does, "
        f"80 to 20, no prompt is on both sides; near-duplicate groups that would be: {near}."
    )
    if near:
        text = (
            f"Near-duplicate prompts could fall on both sides of a split ({near} groups): keep each group on one side."
        )
        section.advice.append(Advice(near / len(side), text))
    return section


@dataclass(frozen=True)
class _Prompted:
    """All that a split by prompt needs of a row."""

    prompt: str


def contradictions_section(data: Judgements) -> Section:
    import networkx

    kinds: dict[tuple, set[str]] = defaultdict(set)
    own: dict[tuple, set[str]] = defaultdict(set)
    net: dict[str, Counter] = defaultdict(Counter)
    for row in data.rows:
        if row.winner is not None:
            kinds[row.unit].add(row.label)
            own[row.unit, row.labeller].add(row.label)
            net[row.prompt_text][row.winner, row.loser] += 1
    between = sum(len(labels) > 1 for labels in kinds.values())
    self_contrary = sum(len(labels) > 1 for labels in own.values())
    cycles, several = 0, 0
    for wins in net.values():
        edges = [(a, b) for (a, b), count in wins.items() if count > wins[b, a]]
        several += len({text for edge in edges for text in edge}) > 2
        graph = networkx.DiGraph(edges)
        cycles += any(len(part) > 2 for part in networkx.strongly_connected_components(graph))
    section = Section(
        "Contradictions and cycles",
        [],
        ("Kind", "Count", "Of"),
        [
            ("pairs that one labeller decided both ways", str(self_contrary), f"{len(own)} pairs and labellers"),
            ("pairs decided both ways by anybody", str(between), f"{len(kinds)} decided pairs"),
            ("prompts with a cycle (A over B over C over A)", str(cycles), f"{several} prompts of 3 responses or more"),
        ],
    )
    if self_contrary:
        text = f"Decided both ways by one labeller, {self_contrary} of {len(own)} times: label again or drop them."
        section.advice.append(Advice(self_contrary / len(own), text))
    if cycles:
        text = f"{cycles} of {several} prompts have a preference cycle, which no reward can fit: label those again."
        section.advice.append(Advice(cycles / several / 2, text))
    return section


def share_interval(wins: Sequence[bool], groups: Sequence[str]) -> Interval:
    """A share with its 95% Wilson interval, the sample size lowered to what clustering by group leaves of it.

    The variance of the ratio of cluster sums over its binomial value is the design effect, never taken below 1; where
    all are alike it cannot be estimated, and the number of groups is the sample size.
    """
    from statsmodels.stats.proportion import proportion_confint

    n = len(wins)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    share = sum(wins) / n
    sums: dict[str, float] = defaultdict(float)
    for won, group in zip(wins, groups, strict=True):
        sums[group] += won - share
    if 0 < share < 1 and len(sums) > 1:
        variance = len(sums) / (len(sums) - 1) * sum(value**2 for value in sums.values()) / n**2
        size = n / max(variance / (share * (1 - share) / n), 1.0)
    else:
        size = len(sums)
    low, high = proportion_confint(share * size, size, method="wilson")
    return Interval(share, float(low), float(high), n)


def _longer(row: Judgement) -> int:
    """Characters by which the winner is longer than the loser."""
    return len(row.winner or "") - len(row.loser or "")


def bias_section(data: Judgements) -> Section:
    decided = [row for row in data.rows if row.winner is not None and row.person]
    decided = decided or [row for row in data.rows if row.winner is not None]
    section = Section("Length and position", [], ("The winner was", "Share", "95% interval", "Judgements"))

    def share_of(rows: list[Judgement], won: Callable[[Judgement], bool], name: str) -> Interval:
        found = share_interval([won(row) for row in rows], [row.prompt_text for row in rows])
        section.rows.append((name, *cells(found)))
        return found

    unequal = [row for row in decided if _longer(row)]
    longer = share_of(unequal, lambda row: _longer(row) > 0, "the longer response (characters)")
    for low, high, name in ((1, 1.5, "less than 1.5"), (1.5, 3, "1.5 to 3"), (3, math.inf, "3 or more")):
        within = [row for row in unequal if low <= _ratio(row) < high]
        share_of(within, lambda row: _longer(row) > 0, f"- the longer one, {name} times as long")
    ordered = [row for row in decided if row.shown]
    if ordered:
        first = share_of(ordered, lambda row: row.answer == "first", "the first response")
        if _off_half(first):
            side = "first" if first.mean > 0.5 else "second"
            text = f"The {side} response wins {max(first.mean, 1 - first.mean):.0%} of the time: shuffle the order."
            section.advice.append(Advice(abs(first.mean - 0.5) * 2, text))
    else:
        section.lines.append("The order in which the responses were shown is not recorded, so position is unknown.")
    if decided:
        words = [np.mean([len((text or "").split()) for text in texts]) for texts in
                 ([r.winner for r in decided], [r.loser for r in decided])]  # fmt: skip
        section.lines.append(f"Winners have {words[0]:.0f} words on average, losers {words[1]:.0f}.")
    if _off_half(longer):
        which, share = ("longer", longer.mean) if longer.mean > 0.5 else ("shorter", 1 - longer.mean)
        low, high = (longer.low, longer.high) if which == "longer" else (1 - longer.high, 1 - longer.low)
        text = f"The {which} response wins {share:.0%} of the time ({low:.0%} to {high:.0%})"
        if share >= 0.55:
            text += f": a reward model can reach {share:.0%} by length alone. Balance the lengths or control for them."
            section.advice.append(Advice((share - 0.5) * 2, text))
        section.lines.append(text.split(":")[0] + ".")
    return section


def _ratio(row: Judgement) -> float:
    short, long = sorted((len(row.first), len(row.second)))
    return long / short


def _off_half(found: Interval) -> bool:
    return found.n >= FEW and not found.low <= 0.5 <= found.high


def tokens_section(data: Judgements, tokens: Tokens | None) -> Section:
    section = Section("Tokens", [])
    if tokens is None:
        section.lines.append("Not counted: give a tokenizer with --model.")
        return section
    units = {row.unit: row for row in data.rows}
    lengths = np.array([tokens.count(row) for row in units.values()])
    over = int((lengths > tokens.context).sum())
    quantiles = ", ".join(f"{q}%: {np.quantile(lengths, q / 100):.0f}" for q in (50, 90, 99))
    section.lines = [
        f"By the tokenizer of {tokens.name}, prompt and longer response together ({quantiles}; most: {lengths.max()}).",
        f"{over} of {len(units)} pairs ({over / len(units):.1%}) do not fit into {tokens.context} tokens.",
    ]
    if over:
        text = f"Longer than {tokens.context} tokens and to be cut, {over} of {len(units)} pairs: shorten or drop them."
        section.advice.append(Advice(over / len(units), text))
    return section


def sources_section(data: Judgements) -> Section:
    prompts = {row.prompt_text: row for row in data.rows}
    rows = Counter(row.source or "not recorded" for row in data.rows)
    section = Section(
        "Sources and lengths of prompts", [], ("Source", "Judgements", "Prompts", "Median words", "Longest (words)")
    )
    for source, count in rows.most_common(20):
        lengths = [len(text.split()) for text, row in prompts.items() if (row.source or "not recorded") == source]
        cells = (np.median(lengths), max(lengths)) if lengths else (math.nan, math.nan)
        section.rows.append((source, str(count), str(len(lengths)), *(f"{cell:.0f}" for cell in cells)))
    turns = Counter(len(row.prompt) for row in prompts.values())
    section.lines.append(
        "Messages in a prompt: " + ", ".join(f"{n} in {c}" for n, c in sorted(turns.items())[:12]) + "."
    )
    return section
