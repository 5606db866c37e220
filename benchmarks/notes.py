"""What a reader of a run's numbers needs beside them: the data, what was brought, what is particular about methods."""

from collections.abc import Mapping
from typing import Any

from ..analysis.data_account import account
from ..analysis.verdict import listed
from ..models.chat import PLAIN_TEMPLATE, TODAY, is_bare, writes_date
from ..models.elsewhere import Elsewhere
from .data.brought import DEMONSTRATIONS, PRACTICE, QUESTIONS
from .data.corpus import Corpus
from .definition.spec import BenchmarkSpec, Collected
from .stages.training_reward import TrainingReward

BROUGHT = {
    DEMONSTRATIONS: "demonstrations that SFT imitates",
    PRACTICE: "prompts that methods sample from",
    QUESTIONS: "questions that policies are judged on",
}


def told_of_data(spec: BenchmarkSpec, corpus: Corpus) -> list[str]:
    """What the data are, said before anything is trained on them."""
    first, *rest = account(corpus.record)
    splits = ", ".join(f"{name} {s['pairs']} pairs" for name, s in corpus.record["splits"].items())
    return [f"{spec.name}: {first}", *(f"  {line}" for line in rest), f"splits: {splits}", *told_of_brought(corpus)]


def told_of_brought(corpus: Corpus) -> list[str]:
    """What the benchmark brings beside its pairs, how much of it is used, and what was left out of it."""
    said = []
    for name, words in BROUGHT.items():
        if found := corpus.record.get(name):
            reasons = ", ".join(f"{count} {reason}" for reason, count in found["dropped"].items())
            left = f"; left out: {reasons}" if reasons else ""
            said.append(f"{words}: {found['used']} of {found['read']} rows of {found['source']}{left}")
    return said


def notes(
    spec: BenchmarkSpec,
    tokenizer: Any,
    methods: dict[str, Any],
    elsewhere: Mapping[str, Elsewhere],
    corpus: Corpus,
    training: TrainingReward | None = None,
    round: Mapping[str, Any] | None = None,
) -> list[str]:
    """Notes on the data and the model that a reader of the numbers needs; round: of a run that continues another."""
    said = told_of_brought(corpus)
    if spec.sft is None:
        said.append(
            f"no SFT was trained: sft stands for {spec.model} as it is, from which every method starts, and its gate "
            f"compares nothing"
        )
    if spec.tuning.base_bits:
        said.append(
            "the frozen base lies in 4 bits (NF4): all rows, sft and the reference start from the same rounded SFT "
            "checkpoint, and from whole weights numbers would differ"
        )
    if training and (asking := [label for label, method in methods.items() if getattr(method, "needs_reward", False)]):
        kind = "a function" if training.model is None else "a reward model from elsewhere"
        said.append(
            f"{listed(asking)} optimized {training.name}, {kind}; no training reward model was trained, and what the "
            f"reward itself computes is in no cost"
        )
        if training.is_true:
            said.append(
                f"{listed(asking)} optimized the true reward itself, which no team has: what a perfect reward model "
                f"would give, beside which learnt rewards are read"
            )
    if spec.collected:
        said.append(_told_of_collected(spec.model, spec.collected, corpus.record["collected"]))
    if is_bare(tokenizer):
        said.append("prompts are bare text, which responses go on with, as for a base model; no chat template was used")
    if tokenizer.chat_template == PLAIN_TEMPLATE:
        said.append(f"{spec.model} has no chat template; the plain template of alignment-bench was used")
    if writes_date(tokenizer):
        said.append(
            f"the chat template writes the date; {TODAY:%d %B %Y} stands in every prompt, lest another day give other "
            f"numbers"
        )
    for name, policy in elsewhere.items():
        if policy.tokenizer().chat_template == PLAIN_TEMPLATE:
            said.append(f"{name} has no chat template; the plain template of alignment-bench was used for it")
    for label, method in methods.items():
        if (count := getattr(method, "responses_per_answer", 1)) > 1:
            said.append(f"{label} costs nothing to train but {count} responses and scores for every response in use")
        if spec.sft and getattr(method, "start", "sft") != "sft":
            said.append(f"{label} is tuned from the {method.start} model, so it saw the preference data only")
        if getattr(method, "data", "pairs") == "unpaired":
            said.append(f"{label} learns from other data than the rest: {spec.unpaired}")
    record = corpus.record
    if same := record["same_prompts"]:
        said.append(
            f"the chat template leaves something out: {same} prompts differ from another in their text and not in what "
            f"the model sees, and count as the same prompt"
        )
    asked, kind = len(corpus.prompts(corpus.questions, 0)), "questions" if QUESTIONS in record else "held-out prompts"
    if asked < spec.evaluation.prompts:
        said.append(f"only {asked} {kind} are available, {spec.evaluation.prompts} were asked for")
    if done := record.get("labels"):
        said.append(
            f"the labels of {done['changed']} of {record['splits']['training']['pairs']} training pairs were changed "
            f"on purpose (flip {done['flip']:g}, bias {done['bias']:g} to {done['taste']}); no other pair was"
        )
    if few := record.get("training_pairs"):
        limits = [f"{name} {value}" for name, value in few.items() if name != "left_out" and value]
        said.append(
            f"{few['left_out']} training pairs were left out by training_pairs ({', '.join(limits)}), and with them "
            f"prompts that methods would sample from"
        )
    if more := record.get("more_pairs"):
        out, sources = sum(more["dropped"].values()), ", ".join(more["sources"])
        said.append(f"{more['used']} of the training pairs are further ones ({sources}); {out} of these were left out")
    if round:
        said.append(
            f"round {round['number']} continues run {round['parent']}: sampling from its policies, and the labels "
            f"({round['labelled_by']}), are not among the costs"
        )
        if round["labelled_by"] == "judge":
            said.append("the judge labelled pairs of this round, so its win rates are what was trained for")
    dropped = sum(record["dropped"].values())
    if 2 * dropped > record["read"]:
        said.append(f"{dropped} of {record['read']} rows were dropped, so the rest may not represent the whole")
    return said


def _told_of_collected(model: str, settings: Collected, counts: Mapping[str, int]) -> str:
    """Whose responses the pairs are, who labelled them, and what was left out."""
    said = (
        f"the pairs are {model}'s own responses to {counts['prompts']} prompts, labelled by a Bradley-Terry draw on "
        f"{settings.reward} at sharpness {settings.sharpness:g}; {counts['dropped unfinished']} of {counts['sampled']} "
        f"responses did not end and were dropped"
    )
    if settings.margin:
        said += f", and {counts['pairs within the margin']} pairs differ by less than {settings.margin:g} in reward"
    return said
