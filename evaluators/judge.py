"""A model that compares two responses: which prompts it is asked, in which order, and what its answers count."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Lt

from ..analysis.sequential import asking_order
from ..errors import InputError, nearest
from ..models.model_files import check_model_files
from ..results.records import Generation, Message, Score
from ..results.store import folder_digest
from .judge_cache import Asker, RememberingAsker, Usage, Verdict
from .judge_sequential import judge_until_decided

Pair = tuple[Generation, Generation]

PROMPTS = Path(__file__).parent / "prompts"
OPENAI = "openai:"


@dataclass(frozen=True)
class Judge:
    """Yields `win_rate.judge` and what shows the judge's quality, for the prompts that are judged; see `compare`.

    Several models form a panel: `win_rate.judge` is then the mean of its members, each of which has a
    `win_rate.judge.MEMBER` of its own; see `pool`.
    """

    model: str | tuple[str, ...]
    """openai:NAME for a chat-completions endpoint (key from the environment variable OPENAI_API_KEY), else the hub id
    or folder of a causal language model; a list of them for a panel."""
    url: str | None = None
    """Base URL of the endpoint, up to and with its /v1; none is OpenAI's own."""
    prompt: str = "pairwise"
    """Name of the file in evaluators/prompts that holds the question."""
    device: str = "cpu"
    """The device of a local judge: cpu, cuda, cuda:1, mps or auto."""
    limit: Annotated[int, Gt(0)] | None = None
    """Prompts that are judged, the same ones for every method; none judges all."""
    until_decided: Annotated[float, Gt(0), Lt(1)] | None = None
    """Level, 0 to 1, at which judging a policy stops because it is decided that it beats the baseline or loses to it;
    none judges every prompt. See `judge_sequential.py`."""
    repeats: Annotated[int, Ge(0)] = 0
    """Prompts whose question is asked a second time, to see whether the judge agrees with itself."""
    concurrency: Annotated[int, Gt(0)] = 8
    """Requests to the endpoint under way at once."""
    timeout: Annotated[float, Gt(0)] = 60.0
    """Seconds to wait for one whole answer of the endpoint."""
    price: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] | None = None
    """US dollars for a million tokens into and out of the endpoint; none shows tokens without their price."""
    labels: Path | None = None
    """File of pairs that people labelled, as for bench audit-judge; the report then shows how far the judge agrees with
    them. None has no such file."""
    cache: Path | None = None
    """Folder of the verdicts; filled in by the benchmark, none keeps nothing."""

    asks_models = True
    is_judge = True
    keeps_answers = True
    determined_by = ("url", "prompt")

    def __post_init__(self) -> None:
        read_template(self.prompt)  # what can be checked is checked before anything is trained
        if not self.models:
            raise InputError("judge: model names no model; give a folder, a hub id or openai:NAME")
        if doubled := [name for name, count in Counter(map(member_name, self.models)).items() if count > 1]:
            raise InputError(f"judge: two members of the panel are called {doubled[0]!r}; a panel needs different ones")
        if self.until_decided is not None and len(self.models) > 1:
            raise InputError("judge: until_decided goes with one model, not with a panel; name one")
        if self.url is not None:
            if not any(model.startswith(OPENAI) for model in self.models):
                raise InputError(f"judge: a url needs an endpoint's model, openai:NAME, but model is {self.model!r}")
            _check_url(self.url)

    @property
    def models(self) -> tuple[str, ...]:
        return (self.model,) if isinstance(self.model, str) else tuple(self.model)

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        return self._score(responses, baseline, partial(open_asker, self))

    def _score(
        self,
        responses: Sequence[Generation],
        baseline: Sequence[Generation],
        asker_of: Callable[[str], RememberingAsker],
    ) -> Iterator[Score]:
        pairs = list(zip(responses, baseline, strict=True))
        if self.limit is not None:
            kept = set(asking_order(ours.prompt_id for ours in responses)[: self.limit])
            pairs = [pair for pair in pairs if pair[0].prompt_id in kept]
        template = read_template(self.prompt)
        found: dict[str, list[Score]] = {}
        if self.until_decided is not None:
            judge = partial(compare, asker_of(self.models[0]), template)
            yield from judge_until_decided(judge, pairs, self.until_decided)
            return
        for model in self.models:
            asker = asker_of(model)
            found[member_name(model)] = list(compare(asker, template, pairs))
            found[member_name(model)] += ask_again(asker, template, pairs, self.repeats)
        yield from pool(found) if len(found) > 1 else next(iter(found.values()))

    def usage(self) -> dict[str, Usage]:
        """This process's verdicts and questions so far, by member."""
        return {member_name(model): open_asker(self, model).usage() for model in self.models}

    def bill(self, judged: Iterable[tuple[Sequence[Generation], Sequence[Generation]]]) -> dict[str, Usage]:
        """The cost of the verdicts on disk about these responses and their baselines, by member; nothing is asked."""
        readers = {model: open_asker(self, model).offline() for model in self.models}
        for responses, baseline in judged:
            for _ in self._score(responses, baseline, readers.__getitem__):
                pass
        return {member_name(model): reader.usage() for model, reader in readers.items()}

    def dollars(self, tokens_in: int, tokens_out: int) -> float | None:
        """The price of tokens; None where no price is known."""
        return (tokens_in * self.price[0] + tokens_out * self.price[1]) / 1e6 if self.price else None


def compare(asker: RememberingAsker, template: str, pairs: Sequence[Pair]) -> Iterator[Score]:
    """Judge each pair (ours, baseline's) in both orders.

    `win_rate.judge` is the mean over the two orders of 1 (win) and 0 (loss), so a judge that picks by position gives
    0.5; None if either answer is invalid; 0.5 for identical responses, which are not asked about.
    `judge.position_consistency` is 1 if both orders prefer the same response, else 0; it exists only where both
    answers are valid.
    """
    questions = []
    for ours, theirs in pairs:
        if ours.response != theirs.response:
            questions += both_orders(template, ours.prompt, ours.response, theirs.response)
    answers = iter(asker.ask(questions) if questions else [])
    for ours, theirs in pairs:
        if ours.response == theirs.response:
            yield Score("win_rate.judge", ours.prompt_id, 0.5)
            continue
        outcome = combine(next(answers), next(answers))
        yield Score("win_rate.judge", ours.prompt_id, outcome)
        if outcome is not None:
            yield Score("judge.position_consistency", ours.prompt_id, float(outcome != 0.5))


def both_orders(template: str, prompt: Sequence[Message], first: str, second: str) -> list[str]:
    """The two questions about a pair of responses: as given, and swapped."""
    return [fill(template, prompt, first, second), fill(template, prompt, second, first)]


def combine(given: Verdict | None, swapped: Verdict | None) -> float | None:
    """The outcome for the first response from the verdicts of `both_orders`: 1 win, 0 loss, 0.5 contradiction.

    None if either is invalid, which is neither a tie nor a loss.
    """
    return None if given is None or swapped is None else ((given == "A") + (swapped == "B")) / 2


def ask_again(asker: RememberingAsker, template: str, pairs: Sequence[Pair], repeats: int) -> list[Score]:
    """`judge.self_consistency` for some prompts: 1 if the same question gets the same valid answer twice, else 0."""
    different = [(ours, theirs) for ours, theirs in pairs if ours.response != theirs.response]
    kept = set(asking_order([ours.prompt_id for ours, _ in different])[:repeats])
    asked = [pair for pair in different if pair[0].prompt_id in kept]
    if not asked:
        return []
    questions = [fill(template, ours.prompt, ours.response, theirs.response) for ours, theirs in asked]
    both = zip(asked, asker.ask(questions), asker.ask(questions, repeat=1), strict=True)
    return [
        Score("judge.self_consistency", ours.prompt_id, float(one == two))
        for (ours, _), one, two in both
        if one is not None and two is not None
    ]


def pool(members: Mapping[str, Sequence[Score]]) -> Iterator[Score]:
    """The scores of a panel's members, and the panel's own.

    `win_rate.judge`: mean of the members' outcomes, None unless all of them answered, so that every prompt has the
    same panel. `judge.agreement`: share of pairs of members with the same outcome (win, tie, loss), where at least two
    answered and the responses differ (they were asked about).
    """
    for name, scores in members.items():
        for score in scores:
            yield Score(f"{score.metric}.{name}", score.prompt_id, score.value)
    rates = [[s for s in scores if s.metric == "win_rate.judge"] for scores in members.values()]
    asked = {(s.prompt_id) for scores in members.values() for s in scores if s.metric == "judge.position_consistency"}
    for scores in zip(*rates, strict=True):
        prompt_id, outcomes = scores[0].prompt_id, [s.value for s in scores]
        known = [value for value in outcomes if value is not None]
        complete = len(known) == len(outcomes)
        yield Score("win_rate.judge", prompt_id, sum(known) / len(known) if complete else None)
        if prompt_id in asked and len(known) > 1:
            same = [a == b for a, b in combinations(known, 2)]
            yield Score("judge.agreement", prompt_id, sum(same) / len(same))


def member_name(model: str) -> str:
    """A judge's name in metrics: the endpoint's model, or the last part of a folder or hub id."""
    return model.removeprefix(OPENAI) if model.startswith(OPENAI) else model.rstrip("/").rpartition("/")[2]


def read_template(name: str) -> str:
    """The text of a prompt file; InputError if there is none of that name."""
    known = {path.stem: path for path in PROMPTS.glob("*.txt")}
    if name not in known:
        raise InputError(f"judge: no prompt file is named {name!r}; {nearest(name, known)}")
    return known[name].read_text(encoding="utf-8")


def fill(template: str, prompt: Sequence[Message], a: str, b: str) -> str:
    """The question to the judge; prompt and answers go in as data.

    All placeholders are replaced in one pass, so that braces in an answer stay what they are. Where the template
    delimits with <tags>, the same tags in the data lose their bracket and cannot close the block they stand in.
    """
    values = {"prompt": _render(prompt), "a": a, "b": b}
    if tags := set(re.findall(r"<(\w+)>", template)):
        forged = re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(sorted(tags))})\b)", re.IGNORECASE)
        values = {name: forged.sub("&lt;", text) for name, text in values.items()}
    return re.sub(r"\{(prompt|a|b)\}", lambda match: values[match[1]], template)


def _render(prompt: Sequence[Message]) -> str:
    """A single user message as its bare text; otherwise one line `Role: text` a turn."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


@cache  # the harness scores cell by cell; a local judge is loaded once
def open_asker(judge: Judge, model: str) -> RememberingAsker:
    """One of a judge's models, with its verdicts on disk; nothing is loaded or asked before `ask`."""
    if model.startswith(OPENAI):
        from .judge_openai import OpenAIAsker

        asker = OpenAIAsker(model.removeprefix(OPENAI), judge.url, concurrency=judge.concurrency, timeout=judge.timeout)
        return RememberingAsker(lambda: asker, judge.cache, asker.identity)

    def load() -> Asker:
        from .judge_local import LocalAsker

        if Path(model).is_dir():
            check_model_files(Path(model), f"judge {model}")
        return LocalAsker(model, judge.device)

    if not (judge.cache and Path(model).is_dir()):
        return RememberingAsker(load, None, None)
    from .judge_local import identity

    return RememberingAsker(load, judge.cache, {"weights": folder_digest(Path(model)), **identity(judge.device)})


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        fine = fine and url.isprintable() and " " not in url
    except ValueError:
        fine = False
    if fine and (parts.username is not None or parts.query):
        raise InputError("judge: url must hold no credentials and no query; put the key into OPENAI_API_KEY")
    if not fine:
        raise InputError(f"judge: url {url!r} is not an http(s) address; give one like http://localhost:8000/v1")
