"""The stage after a policy: its responses to the evaluation's prompts."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...models.chat import answer_of, encode_prompts
from ...models.checkpoint import Checkpoint
from ...models.elsewhere import Elsewhere, open_copy, respond_elsewhere
from ...models.limits import context_window
from ...models.policy import Policy
from ...models.sampling import Choice, respond
from ...models.trial import try_sampling
from ...results.integrity import digest, digest_each, write_json
from ...results.records import Generation
from ...results.store import GENERATIONS, INFERENCE, Stage, read_generations, write_jsonl
from ...training.task import PromptDataset
from ..context import MODEL_CODE, Workshop

ELSEWHERE = "elsewhere.json"


@dataclass(frozen=True)
class Responses:
    """Responses on disk: the hash of their content, and how to read them."""

    key: str
    read: Callable[[], list[Generation]]


def generate(
    shop: Workshop,
    sft: Checkpoint,
    policy: Checkpoint | None,
    prompts: PromptDataset,
    *,
    temperature: float,
    seed: int,
    choice: Choice | None = None,
) -> Stage:
    """Responses of a policy (None: the SFT checkpoint itself), with entropy and KL to SFT; see `models.sampling`.

    inference.json: what they took, all together, without the entropy and KL that only we ask for.
    """

    def build(out: Path) -> None:
        reference = Policy.open(sft, shop.tuning, trainable=False)
        model = open_copy(policy, shop.tuning) if policy else reference
        given: dict[str, Any] = {"max_new_tokens": prompts.max_new_tokens, "temperature": temperature, "seed": seed}
        try:
            if isinstance(policy, Elsewhere):
                answers = respond_elsewhere(model, reference, prompts.prompts, **given)
            else:
                answers = respond(model, reference if policy else None, prompts.prompts, choice=choice, **given)
        finally:
            model.network.close()
        write_jsonl(out / GENERATIONS, answers.generations)
        spent = {
            "responses": len(answers.generations),
            "seconds": answers.seconds,
            "flops": 2.0 * model.network.size * (answers.generated_tokens + answers.scored_tokens),
            "generated_tokens": answers.generated_tokens,
            "reward_queries": answers.reward_queries,
        }
        (out / INFERENCE).write_text(json.dumps(spent, indent=2))

    inputs = shop.inputs(
        MODEL_CODE,
        sft=sft.key,
        policy=policy.key if policy else None,
        prompts=digest_each([p.id, p.ids] for p in prompts.prompts),
        max_new_tokens=prompts.max_new_tokens,
        temperature=temperature,
        seed=seed,
        choice=[choice.responses, choice.key] if choice else None,
    )
    return shop.store.stage("generations", inputs, build)


def try_elsewhere(shop: Workshop, name: str, policy: Elsewhere, prompts: PromptDataset) -> Stage:
    """The stage in which a policy that was trained elsewhere is opened once; elsewhere.json says how large it is.

    InputError for one that cannot be opened or asked, or that has no room for a prompt and a response.
    """

    def build(out: Path) -> None:
        try:
            model = policy.open(shop.tuning)
            longest = max(map(len, encode_prompts(model.tokenizer, [p.messages for p in prompts.prompts])))
        except Exception as error:  # whatever a model's files or its template raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise InputError(f"policy {name} cannot be opened and asked ({first}); repair it or leave it out") from None
        window = context_window(model.network.model.config)
        if window and longest + prompts.max_new_tokens > window:
            raise InputError(
                f"policy {name} reads at most {window} tokens, and its longest prompt with a response has "
                f"{longest + prompts.max_new_tokens}; lower max_prompt_tokens or max_response_tokens, or leave it out"
            )
        if shop.tuning.sampler == "torch":
            try_sampling(model, f"policy {name}")
        write_json(out / ELSEWHERE, {"parameters": model.network.size})

    asked = digest_each([p.id, p.ids] for p in prompts.prompts)
    inputs = shop.inputs(MODEL_CODE, policy=policy.key, prompts=asked, max_new_tokens=prompts.max_new_tokens)
    return shop.store.stage("elsewhere", inputs, build)


def read_responses(stage: Stage) -> Responses:
    """The responses of a stage, not read yet."""
    return Responses(stage.content, lambda: read_generations(stage.path / GENERATIONS))


def read_answers(stage: Stage, opened: bool) -> Responses:
    """The same without the thoughts before each answer; opened: see `answer_of` in models/chat.py."""
    whole = read_responses(stage)
    return Responses(
        digest([whole.key, "without thoughts", opened]),
        lambda: [replace(one, response=answer_of(one.response, opened)) for one in whole.read()],
    )
