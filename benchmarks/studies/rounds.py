"""The next round of RLHF on a finished run: its policies answer training prompts, the answers are labelled, and all
methods are trained again on old and new pairs.

As in Ouyang et al. (2022, arXiv:2203.02155, section 3.1) and Bai et al. (2022, arXiv:2204.05862, section 4.5) a round
has a new training reward model and new policies, which start from the SFT checkpoint again: so rounds differ in their
data alone, with the same budget and the same reference. All rows share the new pairs, to which each policy of the run
has given a like part, so that no row learns from more labels than another. Held-out prompts, SFT and the evaluation
reward model stay those of the first round, so that rounds compare.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ...errors import InputError
from ...evaluators.judge import Judge
from ...models.checkpoint import Checkpoint
from ...models.policy import Policy
from ...preferences.collect import Sampling, collect
from ...preferences.labellers import JudgeLabeller, Labeller, SimulatedPerson, label_all
from ...preferences.labels import COLLECTION, ITEMS, LABELS, read_items, read_labels
from ...results.integrity import digest, write_json
from ...results.run_folder import STUDIES, Run, differences, find_run
from ...results.store import ADAPTER, POLICY, write_jsonl
from .. import harness
from ..contract import evaluation_settings, sft_settings
from ..request import Request
from ..stages.scorers import given_models
from ..stages.training_reward import true_rewards
from .axes import Axis, Study, StudyRun
from .study import found_by, write_study

LabelledBy = Literal["simulated", "judge", "people"]
LABELLED_BY: tuple[LabelledBy, ...] = get_args(LabelledBy)
ROUNDS, ROUND = "rounds", "round"
WITH_CONTENTS = ("sft", "reward_model")  # the parts of a contract that also have what was made by their settings
CANDIDATES = 2  # responses to a prompt, which are the pair


@dataclass(frozen=True)
class Next:
    """What one call of `bench run --continue-from` asks for, once it is known to be possible."""

    request: Request
    """With the pairs of the rounds before."""
    made: harness.Harness
    """Of that request."""
    parent: Run
    labelled_by: LabelledBy
    pairs: int | None
    """New pairs, at most one a training prompt; None: one each."""

    @property
    def number(self) -> int:
        """The number of the round; the run that began has 0."""
        return number_of(self.parent) + 1

    @property
    def policies(self) -> dict[str, Checkpoint]:
        """The parent's policies by row, each of the first seed: of the rows of this round that can be sampled from."""
        rows = {row.label: row for row in self.made.rows if getattr(row.method, "responses_per_answer", 1) == 1}
        found: dict[str, Checkpoint] = {}
        for cell in self.parent.cells():
            if cell.method in rows and cell.method not in found:
                files = {n: sha for n, sha in cell.manifest["files"].items() if Path(n).parts[0] == POLICY}
                files = {n: sha for n, sha in files.items() if Path(n).name != ADAPTER}  # which names a place
                found[cell.method] = Checkpoint(cell.path / POLICY, digest(files))
        return found

    @property
    def about(self) -> dict[str, Any]:
        """For the contract: which round this is, and what it was made of."""
        policies = digest({row: policy.key for row, policy in self.policies.items()})
        return {
            "number": self.number,
            "parent": self.parent.record["run_id"],
            "policies": policies,
            "labelled_by": self.labelled_by,
            "pairs": self.pairs,
        }

    @property
    def folder(self) -> Path:
        """The collection of the round, in which its labels lie."""
        return Path(self.request.root) / ROUNDS / self.request.spec.name / digest(self.about)[:12]


def number_of(run: Run) -> int:
    """The number of a run's round, 0 where it continues none."""
    return run.record["contract"].get(ROUND, {}).get("number", 0)


def plan_round(request: Request, parent: Path, labelled_by: LabelledBy, pairs: int | None) -> Next:
    """Look at the run that is to be continued. InputError for one that is not finished or has another contract, and for
    a labeller that the benchmark lacks; nothing is trained."""
    run = find_run(parent, finished=True)
    before = run.record["data"].get("more_pairs", {}).get("sources", [])
    if others := set(request.spec.more_pairs) - set(before):
        raise InputError(f"more_pairs names {min(others)}, which {run.path} does not have; leave it out")
    spec = request.spec.with_fields({"more_pairs": before}, "--continue-from")
    request = dataclasses.replace(request, spec=spec)
    made = harness.Harness(dataclasses.replace(request, say=lambda line: None))
    if differs := _differences(made, run.record["contract"]):
        raise InputError(
            f"{run.path} was made with another configuration (differs in {', '.join(differs)}); give the benchmark, "
            f"model and settings of that run"
        )
    found = Next(request, made, run, labelled_by, pairs)
    if not found.policies:
        raise InputError(
            f"{run.path} has no policy of {', '.join(made.methods)} to sample from; give rows that it trained with "
            f"--method"
        )
    labeller_of(found)
    return found


def _differences(made: harness.Harness, agreed: Mapping[str, Any]) -> list[str]:
    """What a benchmark and a run's contract differ in, as far as it is known before anything trains."""
    spec = made.spec
    ours: dict[str, Any] = {
        "benchmark": spec.name,
        "base": made.base.key,
        "data": made.corpus.digest,
        "budget": spec.budget,
        "tuning": made.shop.tuning.identity(),
        "sft": sft_settings(spec),
        "reward_model": spec.reward_model.model_dump(),
        "methods": spec.methods,
        "method_defaults": spec.method_defaults,
        "evaluation": evaluation_settings(spec),
    }
    theirs = {name: agreed.get(name) for name in ours}
    for name in WITH_CONTENTS:
        theirs[name] = {field: value for field, value in (theirs[name] or {}).items() if field in ours[name]}
    return [*differences(theirs, json.loads(json.dumps(ours)))][:6]


def run_round(found: Next) -> tuple[harness.Outcome, Path] | None:
    """Collect and label the new pairs, run the round on old and new ones, and write the study of all rounds so far.

    None where people still have pairs to label. What is on disk is not made again, so a round goes on where it stopped.
    """
    say = found.request.say
    collected = collect_pairs(found)
    if not _label(found, collected):
        return None
    spec = found.request.spec
    labels = str((found.folder / LABELS).resolve())
    spec = spec.with_fields({"more_pairs": [*spec.more_pairs, labels]}, "--continue-from")
    parent = str(found.parent.path.resolve())
    outcome = harness.run(dataclasses.replace(found.request, spec=spec, round={**found.about, "folder": parent}))
    folder = write_rounds(outcome, found.request)
    say(f"rounds: {folder / 'report' / 'index.html'}")
    return outcome, folder


def collect_pairs(found: Next) -> int:
    """Two responses of a policy to each prompt that falls to it; how many pairs there are."""
    spec, prompts = found.request.spec, found.made.pipeline.prompts.prompts
    order = sorted(prompts, key=lambda prompt: digest([found.number, prompt.id]))[: found.pairs]
    policies = found.policies
    sampling = Sampling(
        CANDIDATES,
        (spec.evaluation.temperature,),
        max_new_tokens=spec.max_response_tokens - 1,  # with EOS it is a reply that the benchmark takes
        seed=found.number,
        rule="all",
    )
    items = []
    for place, (row, policy) in enumerate(policies.items()):
        asked = [(prompt.messages, spec.preferences) for prompt in order[place :: len(policies)]]
        if not asked:
            continue
        folder = found.folder / "policies" / row
        about = {"model": f"{found.parent.path}/{row}", "model_hash": policy.key, "prompts": len(asked)}
        opened = Policy.open(policy, found.made.shop.tuning, trainable=False)
        try:
            counts = collect(opened, f"{row}@{policy.key[:12]}", asked, sampling, folder, about)
        finally:
            opened.network.close()
        found.request.say(f"round {found.number}: {row} answered {counts['prompts']} prompts: {counts['pairs']} pairs")
        items += read_items(folder)
    write_jsonl(found.folder / ITEMS, items)
    write_json(found.folder / COLLECTION, {ROUND: found.about, "policies": list(policies)})
    return len(items)


def _label(found: Next, pairs: int) -> bool:
    """Whether all pairs are labelled, after those were that are to be labelled here."""
    say, folder = found.request.say, found.folder
    if labeller := labeller_of(found):
        answers = label_all(folder, labeller, found.labelled_by)
        say(f"round {found.number}: labels: " + ", ".join(f"{answer} {n}" for answer, n in answers.most_common()))
        return True
    done = Counter(label.item for path in folder.glob(f"{LABELS}/*.jsonl") for label in read_labels(path))
    if len(done) < pairs:
        say(
            f"round {found.number}: {pairs - len(done)} of {pairs} pairs are to be labelled by people: bench label "
            f"{folder}; then give the same command again"
        )
    return len(done) >= pairs


def labeller_of(found: Next) -> Labeller | None:
    """Who labels here; None for people. InputError where the benchmark has no true reward or no judge."""
    spec, made = found.request.spec, found.made
    if found.labelled_by == "simulated":
        if not (rewards := true_rewards(made.scored_by.evaluators)):
            raise InputError(
                f"--labeller simulated knows the true reward, and no evaluator of benchmark {spec.name} does; give "
                f"--labeller judge or people"
            )
        return SimulatedPerson(found.labelled_by, rewards[0], seed=found.number)
    if found.labelled_by == "judge":
        judge = made.scored_by.judge
        if not isinstance(judge, Judge):
            raise InputError(f"--labeller judge needs a judge, which {spec.name} has not; give one with --judge")
        name = next(name for name, each in made.scored_by.evaluators.items() if each is judge)
        given = given_models(spec.evaluators[name], made.scored_by.models, made.shop.tuning.device, found.request.root)
        given |= {"cache": None, "labels": None, "limit": None, "until_decided": None, "repeats": 0}
        return JudgeLabeller(found.labelled_by, dataclasses.replace(judge, **given))
    return None


def chain_of(run: Run) -> list[Run]:
    """A run and those that it continues, the first in front."""
    chain = [run]
    while parent := chain[0].record.get("parent"):
        chain.insert(0, find_run(Path(parent), finished=True))
    return chain


def write_rounds(outcome: harness.Outcome, request: Request) -> Path:
    """Write the study of a run's rounds, with the round as its axis; its folder."""
    chain = chain_of(outcome.run)
    axis = Axis(ROUND, tuple(range(len(chain))), "--continue-from", None)
    spec, rows = request.spec, [*outcome.run.record["methods"]]
    study = Study(f"{spec.name}-{ROUNDS}"[:64], spec, tuple(rows), request.seeds, (axis,))
    runs = [StudyRun(spec, {row: (row, {}) for row in rows}, {ROUND: place}, {}) for place in range(len(chain))]
    outcomes = [harness.Outcome(run, run.summary, {}) for run in chain[:-1]]
    folder = Path(request.root) / STUDIES / study.name / chain[0].record["run_id"]
    return write_study(folder, found_by(study, runs, [*outcomes, outcome]))
