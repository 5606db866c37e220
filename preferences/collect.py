"""Candidates sampled from a model, and the pairs of them that are to be labelled."""

import dataclasses
import difflib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from ..errors import InputError
from ..models.chat import Refused, encode_prompt, encode_response
from ..models.limits import context_window
from ..models.policy import Policy
from ..models.sampler import to_generations
from ..models.sampling import sample
from ..results.integrity import digest, write_json
from ..results.records import Generation, Message, Prompt, Reward
from ..results.store import write_jsonl
from .columns import Columns
from .files import open_source
from .labels import CANDIDATES, COLLECTION, ITEMS, Item, append, locked, read_record, read_rows, repair
from .messages import Unusable
from .read import prompt_of
from .sentence import Stop, first_sentence

Rule = Literal["all", "random", "most_different", "best_random"]
Prompts = list[tuple[tuple[Message, ...], str]]  # messages and source of each
CHUNK = 64  # prompts whose candidates are sampled together and written at once


@dataclass(frozen=True)
class Sampling:
    """The drawing and pairing of candidates."""

    k: int = 4
    """Candidates per prompt, 2 or more."""
    temperatures: tuple[float, ...] = (1.0,)
    """Each above 0; candidate i of a prompt is drawn at the i-th, from the first again when they are used up."""
    top_p: float = 1.0
    """Above 0 up to 1; 1 samples purely."""
    max_new_tokens: int = 256
    """Longest response in tokens; a longer one stops there."""
    seed: int = 0
    rule: Rule = "random"
    """all: every two different responses. random: one random pair a prompt. most_different: the pair with the fewest
    words in common. best_random: the response that a reward scores highest against a random other one."""
    stop: Stop = "eos"
    """The end of a response: the model's own (eos), or that of the first sentence where it comes before (sentence)."""
    drop_unfinished: bool = False
    """Responses that reached their end in no `max_new_tokens` are dropped and counted; else kept as they are."""
    margin: float = 0.0
    """Pairs whose rewards differ by less are left out and counted; 0 keeps all."""

    def __post_init__(self) -> None:
        if self.k < 2:
            raise InputError(f"-k {self.k} gives no pair: one candidate a prompt cannot be compared; give -k 2 or more")
        if not self.temperatures or not all(0 < t < float("inf") for t in self.temperatures):
            raise InputError("--temperature needs numbers above 0, separated by commas, for example 0.7,1.0")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p} is not above 0 and up to 1; 1 samples purely")
        if self.rule not in get_args(Rule):
            raise InputError(f"--rule {self.rule} is not known; give {', '.join(get_args(Rule))}")
        if self.stop not in get_args(Stop):
            raise InputError(f"--stop {self.stop} is not known; give {' or '.join(get_args(Stop))}")
        if not 0 <= self.margin < float("inf"):
            raise InputError(f"--margin {self.margin} is not a number from 0 on")

    @property
    def needs_reward(self) -> bool:
        """True where pairs hang on what a reward says of the responses."""
        return self.rule == "best_random" or self.margin > 0

    def check_reward(self, is_given: bool) -> None:
        """InputError where a reward is needed and none is given."""
        if self.needs_reward and not is_given:
            what = "--rule best_random" if self.rule == "best_random" else f"--margin {self.margin:g}"
            raise InputError(f"{what} needs a reward; give a model with --reward-model, or a function with --reward")


def read_prompts(source: str, split: str = "train", columns: Columns | None = None) -> tuple[Prompts, dict[str, int]]:
    """The different prompts of a source, each with its `prompt_source` (else the source), and the dropped by reason.

    columns: the source's own names, see columns.py.
    """
    return prompts_of((rows for _, rows in open_source(source, split, columns)), source)


def prompts_of(tables: Iterable[Iterable[Mapping[str, Any]]], source: str) -> tuple[Prompts, dict[str, int]]:
    """The same of rows from elsewhere; source: what errors call it."""
    found: dict[str, tuple[tuple[Message, ...], str]] = {}
    dropped: Counter[str] = Counter()
    for rows in tables:
        for row in rows:
            try:
                prompt = prompt_of(row)
            except Unusable as reason:
                dropped[str(reason)] += 1
                continue
            key = digest(list(prompt))
            if key in found:
                dropped["the same prompt again"] += 1
            else:
                found[key] = (prompt, str(row.get("prompt_source") or source))
    if not found:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in dropped.items()) or "no rows"
        raise InputError(f"{source} holds no prompts ({reasons}); give rows with a field 'prompt', text or messages")
    return list(found.values()), dict(dropped)


def collect(
    policy: Policy,
    model_version: str,
    prompts: Sequence[tuple[Sequence[Message], str]],
    settings: Sampling,
    out: Path,
    about: dict[str, Any],
    reward: Callable[[], Reward] | None = None,
) -> dict[str, int]:
    """Sample candidates and write the pairs to label; returns the counts, which collection.json holds too.

    prompts: messages and source of each. about: what collection.json says besides (model, prompts, hashes). reward:
    opens the reward of the rule best_random and of a margin. An interrupted collection goes on where it stopped: every
    chunk of prompts has a seed of its own. InputError for a folder of another collection, or if no pair comes out.
    """
    settings.check_reward(reward is not None)
    about = json.loads(json.dumps({**about, "model_version": model_version, **dataclasses.asdict(settings)}))
    with locked(out, "collect"):
        _open(out, about)
        usable, overlong, refused = _encode(policy, prompts, settings.max_new_tokens)
        _sample_all(policy, model_version, usable, settings, out / CANDIDATES)
        candidates = [row for _, row in read_rows(out / CANDIDATES)]
        items, counts = pair_up(candidates, settings, reward() if reward and settings.needs_reward else None)
        counts = {
            "prompts": len(usable),
            "prompts over the context": overlong,
            **refused,
            **counts,
            "pairs": len(items),
        }
        if not items:
            raise InputError(_nothing(model_version, counts))
        write_jsonl(out / ITEMS, items)
        write_json(out / COLLECTION, {**about, "counts": counts})
    return counts


def pair_up(
    candidates: Sequence[dict[str, Any]], settings: Sampling, reward: Reward | None = None
) -> tuple[list[Item], dict[str, int]]:
    """Pairs by the settings' rule, and how many candidates were sampled and dropped.

    Which of the two is a is drawn from seed and prompt, so that neither rule nor order of sampling shows in it.
    """
    counts = Counter({"sampled": len(candidates), "dropped empty": 0, "dropped identical": 0})
    asked = {"dropped unfinished": settings.drop_unfinished, "pairs within the margin": settings.margin > 0}
    counts.update({name: 0 for name, is_asked in asked.items() if is_asked})
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in candidates:
        group = groups.setdefault(row["prompt_id"], [])
        if not row["response"].strip():
            counts["dropped empty"] += 1
        elif settings.drop_unfinished and not row["finished"]:
            counts["dropped unfinished"] += 1
        elif any(row["response"] == other["response"] for other in group):
            counts["dropped identical"] += 1
        else:
            group.append(row)
    counts["prompts without two different responses"] = sum(len(group) < 2 for group in groups.values())
    groups = {prompt: group for prompt, group in groups.items() if len(group) >= 2}
    scores = _score(groups, reward) if reward else {}
    worth = {(p, row["response"]): s for p, of in scores.items() for row, s in zip(groups[p], of, strict=True)}
    items = []
    for prompt, group in groups.items():
        rng = random.Random(digest([settings.seed, prompt]))
        for pair in _pairs(group, settings.rule, scores.get(prompt, []), rng):
            a, b = rng.sample(pair, 2)
            if settings.margin and abs(worth[prompt, a["response"]] - worth[prompt, b["response"]]) < settings.margin:
                counts["pairs within the margin"] += 1
            else:
                items.append(_item(a, b))
    return items, dict(counts)


def _pairs(
    group: list[dict[str, Any]], rule: Rule, scores: Sequence[float], rng: random.Random
) -> Iterable[Sequence[dict[str, Any]]]:
    if rule == "all":
        return itertools.combinations(group, 2)
    if rule == "random":
        return [rng.sample(group, 2)]
    if rule == "most_different":
        return [min(itertools.combinations(group, 2), key=lambda pair: _likeness(*(c["response"] for c in pair)))]
    best = max(range(len(group)), key=lambda i: scores[i])
    return [(group[best], rng.choice([row for i, row in enumerate(group) if i != best]))]


def _likeness(a: str, b: str) -> float:
    """Share of words that two texts have in common in the same order, 0 to 1 (Ratcliff and Obershelp, difflib)."""
    return difflib.SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()


def _score(groups: dict[str, list[dict[str, Any]]], reward: Reward) -> dict[str, list[float]]:
    rows = [row for group in groups.values() for row in group]
    values = iter(
        reward(
            [Generation(r["prompt_id"], tuple(r["prompt"]), r["response"], r["length"], r["finished"]) for r in rows]
        )
    )
    return {prompt: [next(values) for _ in group] for prompt, group in groups.items()}


def _item(a: dict[str, Any], b: dict[str, Any]) -> Item:
    decoding = {
        name: {field: row[field] for field in ("temperature", "top_p", "seed")} for name, row in (("a", a), ("b", b))
    }
    return Item(
        id=digest([a["prompt"], a["response"], b["response"]])[:16],
        prompt=tuple(a["prompt"]),
        a=a["response"],
        b=b["response"],
        a_version=a["model_version"],
        b_version=b["model_version"],
        prompt_source=a["prompt_source"],
        decoding=decoding,
        a_cut=not a["finished"],
        b_cut=not b["finished"],
    )


def _open(out: Path, about: dict[str, Any]) -> None:
    """Start a collection, or join the one that is there if it is made in the same way."""
    path = out / COLLECTION
    if not path.exists():
        others = [name for name in (CANDIDATES, ITEMS) if (out / name).exists()]
        if others:
            raise InputError(f"{out} holds {others[0]} but no {COLLECTION}; give a new folder with --out")
        write_json(path, about)
        return
    old = read_record(path)
    differs = [name for name in about if old.get(name) != about[name]]
    if differs:
        raise InputError(
            f"{out} holds a collection made in another way (differs in {', '.join(differs)}); give the same settings "
            f"to go on with it, or a new folder with --out"
        )


def _encode(
    policy: Policy, prompts: Sequence[tuple[Sequence[Message], str]], max_new_tokens: int
) -> tuple[list[tuple[Prompt, str]], int, dict[str, int]]:
    """The prompts that leave room for a response in the model's context, how many do not, and how many the template
    refuses, by its words."""
    model: Any = policy.network.model
    window = context_window(model.config)
    encoded, refused = [], Counter[str]()
    for messages, source in prompts:
        try:
            ids = tuple(encode_prompt(policy.tokenizer, messages))
        except Refused as why:
            refused[str(why)] += 1
        else:
            encoded.append((Prompt(digest(list(messages))[:16], tuple(messages), ids), source))
    if refused and not encoded:
        raise InputError(f"none of the {len(prompts)} prompts can be used: {next(iter(refused))}; give other prompts")
    fitting = [e for e in encoded if not window or len(e[0].ids) + max_new_tokens <= window]
    if not fitting:
        raise InputError(
            f"no prompt leaves room for {max_new_tokens} tokens in the model's context of {window}; lower "
            f"--max-new-tokens or give shorter prompts"
        )
    return fitting, len(encoded) - len(fitting), dict(refused)


def _sample_all(
    policy: Policy, model_version: str, prompts: list[tuple[Prompt, str]], settings: Sampling, path: Path
) -> None:
    """Append the candidates that are not there yet, chunk by chunk."""
    repair(path)
    done = {(row["prompt_id"], row["draw"]) for _, row in read_rows(path)} if path.exists() else set()
    with tqdm(total=len(prompts) * settings.k, desc="candidates", unit="response", disable=None) as bar:
        for start in range(0, len(prompts), CHUNK):
            chunk = prompts[start : start + CHUNK]
            if not all((prompt.id, draw) in done for prompt, _ in chunk for draw in range(settings.k)):
                rows = _sample_chunk(policy, model_version, chunk, settings)
                append(path, [row for row in rows if (row["prompt_id"], row["draw"]) not in done])
            bar.update(len(chunk) * settings.k)


def _sample_chunk(
    policy: Policy, model_version: str, chunk: list[tuple[Prompt, str]], settings: Sampling
) -> Iterator[dict[str, Any]]:
    """One row a candidate; its seed is that of its draw, so the same chunk gives the same rows."""
    ids = [prompt.id for prompt, _ in chunk]
    for draw in range(settings.k):
        temperature = settings.temperatures[draw % len(settings.temperatures)]
        seed = int(digest([settings.seed, draw, ids])[:8], 16)
        samples = sample(
            policy,
            [prompt for prompt, _ in chunk],
            max_new_tokens=settings.max_new_tokens,
            seed=seed,
            temperature=temperature,
            top_p=settings.top_p,
        )
        for (prompt, source), one in zip(chunk, to_generations(policy, samples), strict=True):
            if settings.stop == "sentence" and (sentence := first_sentence(one.response, one.finished)):
                length = len(encode_response(policy.tokenizer, sentence))
                one = replace(one, response=sentence, length=length, finished=True)
            yield {
                "prompt_id": prompt.id,
                "prompt": prompt.messages,
                "response": one.response,
                "temperature": temperature,
                "top_p": settings.top_p,
                "seed": seed,
                "draw": draw,
                "length": one.length,
                "finished": one.finished,
                "model_version": model_version,
                "prompt_source": source,
            }


def _nothing(model: str, counts: dict[str, int]) -> str:
    said = ", ".join(f"{name}: {n}" for name, n in counts.items())
    if counts["dropped empty"] == counts["sampled"]:
        return f"{model} gives only empty responses ({said}); is it an SFT model, and its chat template the right one?"
    if counts.get("dropped unfinished", 0) > counts["sampled"] / 2:
        return f"most responses of {model} do not end ({said}); raise --max-new-tokens, or leave out --drop-unfinished"
    if counts.get("pairs within the margin"):
        return f"no pair of responses of {model} is as far apart as the margin ({said}); lower --margin, or raise -k"
    return f"no prompt has two different responses ({said}); raise --temperature, --top-p or -k"
