"""A model that compares two responses: which prompts it is asked about, by which question, and how it is reached."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, Lt

from ..analysis.grids import versus
from ..analysis.judge_panel import ANSWERED
from ..analysis.sequential import asking_order
from ..errors import InputError
from ..models.model_files import check_model_files
from ..results.records import Generation, Score
from ..results.store import folder_digest
from .judge_cache import Asker, RememberingAsker, Usage
from .judge_compare import Pair, ask_again, judge_pairs, pool, renamed
from .judge_question import is_graded, is_pointwise, read_template
from .judge_sequential import judge_until_decided
from .judge_verdict import Reader

OPENAI = "openai:"
OURS = ("model", "messages", "temperature", "max_tokens", "max_completion_tokens")  # of a request, set by other fields


@dataclass(frozen=True)
class Judge:
    """Yields `win_rate.judge` and what shows the judge's quality, for the prompts that are judged; see `judge_compare`.

    Several models form a panel: `win_rate.judge` is then the mean of its members, each of which has a
    `win_rate.judge.MEMBER` of its own. With `versus` rows are compared with each other too, as `versus.judge:OTHER`.
    """

    model: str | tuple[str, ...]
    """openai:NAME for a chat-completions endpoint (key from the environment variable OPENAI_API_KEY), else the hub id
    or folder of a causal language model; a list of them for a panel."""
    url: str | None = None
    """Base URL of the endpoint, up to and with its /v1; none is OpenAI's own."""
    prompt: str = "pairwise"
    """Name of the file in evaluators/prompts that holds the question: pairwise and compact ask for A or B, graded for
    A>>B to B>>A, score for 1 to 10 points a response, rubric for such points on four criteria."""
    facets: tuple[str, ...] = ()
    """Names of further such files, each asked about every pair for a win rate of its own: helpful, honest, harmless."""
    pattern: str | None = None
    """Regular expression whose last match in an endpoint's answer is the verdict (its first group, if it has one); none
    reads the forms that judges are known to answer in."""
    temperature: Annotated[float, Ge(0), Le(2)] | None = 0
    """Sampling temperature of an endpoint, 0 to 2; none leaves it to the endpoint."""
    max_tokens: Annotated[int, Gt(0)] = 16
    """Longest answer of an endpoint in tokens; a judge that thinks first needs thousands."""
    max_completion_tokens: Annotated[int, Gt(0)] | None = None
    """The same for endpoints that count thoughts and answer together, sent in place of max_tokens; none does not."""
    extra_body: dict[str, Any] = field(default_factory=dict, hash=False)
    """Further fields of each request to an endpoint, such as reasoning_effort."""
    panel_weights: tuple[Annotated[float, Gt(0)], ...] | None = None
    """Weights of a panel's members in its mean, above 0, in their order; none weighs all alike."""
    versus: Annotated[int, Ge(0)] = 100
    """Prompts on which every two rows of a run are compared directly, the same ones for all pairs; 0 compares rows with
    SFT alone, as until_decided does."""
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
    determined_by = (
        *("url", "prompt", "facets", "pattern", "panel_weights"),
        *("temperature", "max_tokens", "max_completion_tokens", "extra_body"),
    )

    def __post_init__(self) -> None:
        # what can be checked is checked before anything is trained
        template = read_template(self.prompt)
        names = [member_name(model) for model in self.models]
        if not self.models:
            raise InputError("judge: model names no model; give a folder, a hub id or openai:NAME")
        if doubled := [name for name, count in Counter(names).items() if count > 1]:
            raise InputError(f"judge: two members of the panel are called {doubled[0]!r}; a panel needs different ones")
        if self.until_decided is not None and len(self.models) > 1:
            raise InputError("judge: until_decided goes with one model, not with a panel; name one")
        if self.panel_weights is not None and len(self.panel_weights) != len(self.models):
            raise InputError(
                f"judge: panel_weights has {len(self.panel_weights)} numbers for {len(self.models)} members; "
                f"give one each, or none"
            )
        local = [model for model in self.models if not model.startswith(OPENAI)]
        if local and (is_pointwise(template) or is_graded(template)):
            raise InputError(
                f"judge: {local[0]} is a local model, which answers with A or B alone, but prompt {self.prompt} asks "
                f"for more; take pairwise or compact, or an endpoint"
            )
        self._check_facets(is_pointwise(template))
        self._check_requests()

    def _check_facets(self, by_points: bool) -> None:
        for name in self.facets:
            if is_pointwise(facet := read_template(name)) or is_graded(facet):
                raise InputError(f"judge: facet {name} is no question for A or B; take helpful, honest or harmless")
        if self.facets and (len(self.models) > 1 or by_points or self.until_decided is not None):
            raise InputError("judge: facets go with one model that is asked for A or B on every prompt; omit them")

    def _check_requests(self) -> None:
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise InputError(f"judge: pattern {self.pattern!r} is no regular expression ({error})") from None
        if known := [name for name in OURS if name in self.extra_body]:
            raise InputError(f"judge: extra_body cannot hold {known[0]}; give that as a field of the judge")
        by_endpoint = any(model.startswith(OPENAI) for model in self.models)
        if by_endpoint:
            from .judge_openai import check_proxy

            check_proxy()
        if self.url is not None:
            if not by_endpoint:
                raise InputError(f"judge: a url needs an endpoint's model, openai:NAME, but model is {self.model!r}")
            _check_url(self.url)

    @property
    def models(self) -> tuple[str, ...]:
        return (self.model,) if isinstance(self.model, str) else tuple(self.model)

    @property
    def member_weights(self) -> dict[str, float]:
        """The weight of each member by its name."""
        return dict(zip(map(member_name, self.models), self.panel_weights or (1.0,) * len(self.models), strict=True))

    @property
    def direct(self) -> int:
        """Prompts on which two rows are compared directly; none where judging stops as soon as SFT is beaten."""
        return self.versus if self.until_decided is None else 0

    @property
    def longest_answer(self) -> int:
        """The most tokens that an endpoint may answer with."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def request(self) -> dict[str, Any]:
        """The fields of each request to an endpoint, beside model and messages."""
        longest = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        warmth = {} if self.temperature is None else {"temperature": self.temperature}
        return {**warmth, longest: self.longest_answer, **self.extra_body}

    def score(self, responses: Sequence[Generation], baseline: Sequence[Generation]) -> Iterator[Score]:
        return self._score(responses, baseline, partial(open_asker, self))

    def score_versus(
        self, responses: Sequence[Generation], others: Sequence[Generation], other: str
    ) -> Iterator[Score]:
        """Scores of one row's responses against another's, on the prompts that `versus` allows.

        `versus.judge:OTHER` is 1, 0.5 or 0 for a win, contradiction or loss, and `versus.judge.answered:OTHER` 1 where
        it has a value; a panel's members have both under names of their own. Asking the other way round costs nothing,
        for it is the same two questions.
        """
        return self._score_versus(responses, others, other, partial(open_asker, self))

    def _score_versus(
        self,
        responses: Sequence[Generation],
        others: Sequence[Generation],
        other: str,
        asker_of: Callable[[str], RememberingAsker],
    ) -> Iterator[Score]:
        pairs = self._limited(list(zip(responses, others, strict=True)), self.direct)
        for score in self._panel(pairs, 0, asker_of):
            if score.metric.startswith(("win_rate.", ANSWERED)):
                yield Score(versus(score.metric, other), score.prompt_id, score.value)

    def _limited(self, pairs: list[Pair], most: int | None) -> list[Pair]:
        """The pairs of the prompts that come first in the order of asking, the same for every row."""
        limits = [n for n in (self.limit, most) if n is not None]
        if not limits:
            return pairs
        kept = set(asking_order(ours.prompt_id for ours, _ in pairs)[: min(limits)])
        return [pair for pair in pairs if pair[0].prompt_id in kept]

    def _score(
        self,
        responses: Sequence[Generation],
        baseline: Sequence[Generation],
        asker_of: Callable[[str], RememberingAsker],
    ) -> Iterator[Score]:
        pairs = self._limited(list(zip(responses, baseline, strict=True)), None)
        if self.until_decided is not None:
            judge = partial(judge_pairs, asker_of(self.models[0]), read_template(self.prompt))
            yield from judge_until_decided(judge, pairs, self.until_decided)
            return
        yield from self._panel(pairs, self.repeats, asker_of)
        for name in self.facets:
            asker = asker_of(self.models[0])
            yield from renamed(list(judge_pairs(asker, read_template(name), pairs)), name)

    def _panel(
        self, pairs: Sequence[Pair], repeats: int, asker_of: Callable[[str], RememberingAsker]
    ) -> Iterator[Score]:
        """The scores of the judge's one model, or of all and the panel's."""
        template = read_template(self.prompt)
        found: dict[str, list[Score]] = {}
        for model in self.models:
            asker = asker_of(model)
            found[member_name(model)] = list(judge_pairs(asker, template, pairs))
            found[member_name(model)] += ask_again(asker, template, pairs, repeats)
        yield from pool(found, self.member_weights) if len(found) > 1 else next(iter(found.values()))

    def usage(self) -> dict[str, Usage]:
        """This process's verdicts and questions so far, by member."""
        return {member_name(model): open_asker(self, model).usage() for model in self.models}

    def bill(
        self,
        judged: Iterable[tuple[Sequence[Generation], Sequence[Generation]]],
        direct: Iterable[tuple[Sequence[Generation], Sequence[Generation]]] = (),
    ) -> dict[str, Usage]:
        """The cost of the answers on disk about these responses and their baselines, by member; nothing is asked.

        direct: the responses of rows that were compared with each other.
        """
        readers = {model: open_asker(self, model).offline() for model in self.models}
        for responses, baseline in judged:
            for _ in self._score(responses, baseline, readers.__getitem__):
                pass
        for responses, others in direct:
            for _ in self._score_versus(responses, others, "", readers.__getitem__):
                pass
        return {member_name(model): reader.usage() for model, reader in readers.items()}

    def dollars(self, tokens_in: int, tokens_out: int) -> float | None:
        """The price of tokens; None where no price is known."""
        return (tokens_in * self.price[0] + tokens_out * self.price[1]) / 1e6 if self.price else None


def member_name(model: str) -> str:
    """A judge's name in metrics: the endpoint's model, or the last part of a folder or hub id."""
    return model.removeprefix(OPENAI) if model.startswith(OPENAI) else model.rstrip("/").rpartition("/")[2]


@cache  # the harness scores cell by cell; a local judge is loaded once
def open_asker(judge: Judge, model: str) -> RememberingAsker:
    """One of a judge's models, with its verdicts on disk; nothing is loaded or asked before `ask`."""
    if model.startswith(OPENAI):
        from .judge_openai import OpenAIAsker

        read = Reader(judge.pattern, is_pointwise(read_template(judge.prompt)))
        asker = OpenAIAsker(
            model.removeprefix(OPENAI),
            judge.url,
            concurrency=judge.concurrency,
            timeout=judge.timeout,
            settings=judge.request,
            read=read,
        )
        return RememberingAsker(lambda: asker, judge.cache, asker.identity, read)

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
