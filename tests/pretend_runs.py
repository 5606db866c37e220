"""Every method, and all else that computes, on a pretend CUDA device: what it waits for and launches.

python tests/pretend_runs.py [NAME ...]

Writes results/published/pretend_cuda.json and the page derived from it, pretend_cuda.md, from all runs of all tunings;
with names it prints where theirs come from, and writes nothing. test_pretend_cuda.py makes the same runs and holds them
by that file.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from conftest import save_tiny_model
from pretend_cuda import Seen, pretend_cuda

from alignment_bench.benchmarks.definition.plugins import available, is_ours, load
from alignment_bench.evaluators.judge_local import LocalAsker
from alignment_bench.methods.base import Budget, Checkpoint, PairDataset, PromptDataset, TrainingTask
from alignment_bench.methods.dpo import DPO
from alignment_bench.methods.trl_base import TRLMethod
from alignment_bench.models import sampling
from alignment_bench.models.network import Network
from alignment_bench.models.policy import Policy
from alignment_bench.models.reward_model import RewardModel, TextRewardModel
from alignment_bench.models.sampler import to_generations
from alignment_bench.models.tuning import Tuning
from alignment_bench.results.integrity import write_json
from alignment_bench.results.records import Pair, Prompt, rated_replies
from alignment_bench.training import probe
from alignment_bench.training.loop import Optimizer, Recipe
from alignment_bench.training.reward_model import fit_reward_model
from alignment_bench.training.sft import examples, fine_tune
from alignment_bench.training.task import reference_logps

PUBLISHED = Path(__file__).parents[1] / "results/published/pretend_cuda.json"
TUNINGS = [f"{weights} {precision}" for precision in ("bf16", "fp32") for weights in ("lora", "full")]
TOKENS = 4  # of a response
SAMPLED = {"few": 4, "many": 8}  # tokens of two samplings, whose difference is what a token takes

QUESTION = ({"role": "user", "content": "?"},)
PROMPTS = [Prompt(f"p{i}", QUESTION, (0, *range(10, 14 + i))) for i in range(8)]
PAIRS = [Pair(f"x{i}", p, (*range(40, 43 + i % 3), 1), (60 + i, 61, 1)) for i, p in enumerate(PROMPTS)]
SIZES = {"batch_size": 8, "rollout_size": 8, "minibatch_size": 4, "samples_per_prompt": 2, "epochs": 1, "rounds": 2}
SIZES |= {"reward_models": 2}
VARIANTS: dict[str, dict[str, Any]] = {  # settings under which a method computes something else
    "ppo": {"critic_start": "policy"},
    "kto": {"data": "unpaired"},
    "iterative_dpo": {"reference": "last_round"},
}


@dataclasses.dataclass(frozen=True)
class Place:
    """A place for one run: the folder of its own model, the model's tuning, and a folder to write into."""

    model: Path
    tuning: Tuning
    out: Path

    @property
    def sft(self) -> Checkpoint:
        return Checkpoint(self.model, "sft")

    def policy(self) -> Policy:
        return Policy.open(self.sft, self.tuning, trainable=True)


def by_length(generations) -> list[float]:
    """A reward without a network."""
    return [float(g.length + len(set(g.response))) for g in generations]


def method_runs() -> dict[str, Any]:
    """Every method of the package, and its variants, made small; TRL's trainers place their tensors by accelerate."""
    found = {}
    for name in sorted(name for name, entry in available("methods").items() if is_ours(entry.module)):
        cls: Any = load("methods", name)
        if issubclass(cls, TRLMethod):
            continue
        own = {field.name for field in dataclasses.fields(cls) if field.init}
        given = {key: value for key, value in SIZES.items() if key in own}
        if name == "ppo":
            given["samples_per_prompt"] = 1
        found[name] = cls(**given)
        if name in VARIANTS:
            told = " ".join(f"{key}={value}" for key, value in VARIANTS[name].items())
            found[f"{name}:{told}"] = cls(**given, **VARIANTS[name])
    return found


def train(method: Any, looks: int = 0) -> Callable[[Place, Seen], None]:
    """Two rounds or steps of a method; looks: of the probe, which is the same for all."""

    def work(place: Place, seen: Seen) -> None:
        reference = Policy.open(place.sft, place.tuning, trainable=False)
        unpaired = [reply for pair in PAIRS for reply in rated_replies(pair)]
        task = TrainingTask(
            sft=place.sft,
            pairs=PairDataset(PAIRS, lambda: reference_logps(reference, PAIRS)[:2]),
            prompts=PromptDataset(PROMPTS, TOKENS),
            reward=by_length,
            budget=Budget(16),
            seed=0,
            out=place.out,
            tuning=place.tuning,
            base=place.sft,
            more_rewards=[by_length],
            unpaired=unpaired,
        )
        with mock.patch.object(probe, "SHARES", (1.0,) * looks):
            method.train(task)

    return work


def padded(place: Place, seen: Seen) -> None:
    """DPO where the architecture cannot pack, so that its rows are padded."""
    with mock.patch.object(Network, "packs", False):
        train(DPO(batch_size=8))(place, seen)


def cut(place: Place, seen: Seen) -> None:
    """DPO whose steps take several passes."""
    train(DPO(batch_size=8))(
        dataclasses.replace(place, tuning=dataclasses.replace(place.tuning, micro_tokens=60)), seen
    )


def probed(place: Place, seen: Seen) -> None:
    """DPO, and a look at its policy after the last step."""
    train(DPO(batch_size=8), looks=1)(place, seen)


def recipe(label: str) -> Recipe:
    return Recipe(examples=16, batch_size=8, lr=1e-3, seed=0, label=label)


def sft(place: Place, seen: Seen) -> None:
    """Two steps of SFT, merged, saved and judged."""
    rows = examples(PAIRS, both=False)
    fine_tune(place.sft, place.tuning, recipe("sft"), rows, rows, place.out)


def reward_model(place: Place, seen: Seen) -> None:
    """Two steps of a reward model, saved and judged, then opened as the reward of responses."""
    tokenizer = place.sft.tokenizer()
    fit_reward_model(place.sft, tokenizer, place.tuning, recipe("reward model"), PAIRS, PAIRS, place.out)
    opened = RewardModel.open(place.out / "model", place.tuning)
    policy = place.policy()
    opened(to_generations(policy, sampling.sample(policy, PROMPTS, max_new_tokens=TOKENS, seed=0)))


def responses(place: Place, seen: Seen) -> None:
    """Responses as they are evaluated, with entropy and KL, of a policy and of the best of two."""
    policy, reference = place.policy(), Policy.open(place.sft, place.tuning, trainable=False)
    how: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 1.0, "seed": 0}
    sampling.respond(policy, reference, PROMPTS, **how)
    sampling.respond(reference, None, PROMPTS, choice=sampling.Choice(2, lambda: by_length, "key"), **how)


def generation(place: Place, seen: Seen) -> None:
    """The same prompts answered in few and in many tokens; no row ends early."""
    policy = place.policy()
    policy.network.packs  # noqa: B018  (found out before)
    with mock.patch.object(Policy, "stops", frozenset()):
        for part, tokens in SAMPLED.items():
            with seen.part(part):
                sampling.sample(policy, PROMPTS, max_new_tokens=tokens, seed=0)


def judge(place: Place, seen: Seen) -> None:
    """A local judge's verdicts on questions that begin alike; and a text reward model's scores."""
    LocalAsker(str(place.model), place.tuning.device).ask(
        [f"{'Which of these is better? ' * 2}{i} {i}" for i in range(4)]
    )
    policy = place.policy()
    scorer = RewardModel.open(place.model, place.tuning)
    scorer.network.model.save_pretrained(place.out / "scorer")
    policy.tokenizer.save_pretrained(place.out / "scorer")
    generations = to_generations(policy, sampling.sample(policy, PROMPTS, max_new_tokens=TOKENS, seed=0))
    TextRewardModel(str(place.out / "scorer"), place.tuning.device)(generations)


@lru_cache
def runs() -> dict[str, Callable[[Place, Seen], None]]:
    """All works by name."""
    others = {work.__name__: work for work in (sft, reward_model, responses, generation, judge, padded, cut, probed)}
    return others | {name: train(method) for name, method in method_runs().items()}


@contextlib.contextmanager
def parts_named(seen: Seen) -> Iterator[None]:
    """Optimizer steps and samplings are parts of their own."""
    step, rows = Optimizer.step, sampling.sample_rows

    def named(part: str, work: Callable) -> Callable:
        def within(*given, **more):
            if seen.part_now:  # a sampling of `generation`
                return work(*given, **more)
            with seen.part(part):
                return work(*given, **more)

        return within

    with (
        mock.patch.object(Optimizer, "step", named("step", step)),
        mock.patch.object(sampling, "sample_rows", named("sampling", rows)),
    ):
        yield


@contextlib.contextmanager
def placed(model: Path, tuning: str, *, device: str = "cuda") -> Iterator[Place]:
    """A place of its own for one run, with a copy of the model, for what is kept in memory is kept by folder."""
    weights, precision = tuning.split()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(model, folder / "model")
        (folder / "out").mkdir()
        rank = {"lora": 4, "full": 0}[weights]
        # whether layers are computed again is otherwise found out by two passes, which no later step has
        tuning = Tuning(lora_rank=rank, precision=precision, device=device, gradient_checkpointing=False)  # type: ignore[arg-type]
        yield Place(folder / "model", tuning, folder / "out")


def run(name: str, model: Path, tuning: str) -> Seen:
    """One of `runs` on the pretend device."""
    return watch(runs()[name], model, tuning)


def watch(work: Callable[[Place, Seen], None], model: Path, tuning: str) -> Seen:
    """A work on the pretend device."""
    with placed(model, tuning) as place, pretend_cuda() as seen, parts_named(seen):
        torch.manual_seed(0)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            work(place, seen)
    return seen


def counts(seen: Seen) -> dict[str, dict[str, int]]:
    """Of each part, and of what is in none, how often it was entered, and all that was counted."""
    parts = {part for kind in (seen.launches, seen.waits, seen.copies) for part, _ in kind}
    return {
        part or "else": {
            "times": seen.parts[part] if part else 1,
            **{kind: seen.count(kind, part) for kind in ("launches", "waits", "copies")},
        }
        for part in sorted(parts | {*seen.parts})
    }


def beyond(found: dict[str, dict[str, int]], recorded: dict[str, dict[str, int]], slack: float = 1.0) -> list[str]:
    """What exceeds the record, or is not in it: a sentence each."""
    told = [f"no {part} is recorded" for part in found if part not in recorded]
    for part in found.keys() & recorded.keys():
        for kind, number in found[part].items():
            if number > recorded[part][kind] * (1.0 if kind == "times" else slack):
                told.append(f"{part}: {kind} {number}, recorded are {recorded[part][kind]}")
    return sorted(told)


def save_model(folder: Path) -> Path:
    """The tiny model that all runs start from: one layer, for what is counted grows with layers alike."""
    return save_tiny_model(folder, layers=1)


def versions() -> dict[str, str]:
    """Of the libraries whose operations are counted."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}


def main() -> int:
    only = sys.argv[1:]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder))
        for name, tuning in itertools.product(only or runs(), TUNINGS):
            seen = run(name, model, tuning)
            found.setdefault(name, {})[tuning] = counts(seen)
            print(name, tuning, *([seen.table()] if only else []), sep="\n" if only else " ", flush=True)
    if not only:
        write_json(PUBLISHED, {"versions": versions(), "runs": found})
        PUBLISHED.with_suffix(".md").write_text(
            page(json.loads(PUBLISHED.read_text(encoding="utf-8"))), encoding="utf-8"
        )
    return 0


def page(record: dict[str, Any]) -> str:
    """The page derived from the record."""
    found = record["runs"]
    rows = [[name, *(_each(found[name][tuning], "step") for tuning in TUNINGS)] for name in found]
    steps = _table(["run", *TUNINGS], [row for row in rows if any(row[1:])])
    outside = _table(["run", *TUNINGS], [[name, *(_each(found[name][t], "else") for t in TUNINGS)] for name in found])
    token = _table(["", *TUNINGS], [["a token", *(_token(found["generation"][tuning]) for tuning in TUNINGS)]])
    libraries = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return PAGE.format(libraries=libraries, steps=steps, token=token, outside=outside)


def _each(parts: dict[str, dict[str, int]], part: str) -> str:
    """Waits, copies and launches each time that a part is entered, on average."""
    if part not in parts:
        return ""
    kinds = (parts[part][kind] / parts[part]["times"] for kind in ("waits", "copies", "launches"))
    return ", ".join(f"{number:.1f}".removesuffix(".0") for number in kinds)


def _token(parts: dict[str, dict[str, int]]) -> str:
    more = SAMPLED["many"] - SAMPLED["few"]
    kinds = ((parts["many"][kind] - parts["few"][kind]) / more for kind in ("waits", "copies", "launches"))
    return ", ".join(f"{number:.1f}".removesuffix(".0") for number in kinds)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


PAGE = """# A pretend CUDA device

`python tests/pretend_runs.py` runs every method, SFT, a reward model, sampling and a local judge on a pretend CUDA
device (`tests/pretend_cuda.py`): the CPU computes, and operations on tensors of two devices are refused. None were
mixed. Three numbers stand in each cell: **waits** (the CPU reads a value and waits for all that was launched),
**copies** from the CPU to the device, and **launches** (operations but for views: about a kernel each). The model is a
random Llama of one layer, 32 wide; a step has 4 or 8 examples in one pass (`cut`: in several). A step waits for its
losses, its norm and each pass's watched numbers, and the first one also for a trial of packing. Counted with
{libraries}; `tests/test_pretend_cuda.py` holds these counts from above.

Not shown: what only CUDA's kernels do (numbers that they refuse, the order of their sums, speed), memory, streams and
races, several devices. TRL's trainers place their tensors by accelerate and are not run.

## An optimizer step

PPO's steps are its policy's and its critic's, each counted.

{steps}

## A generated token

What each further token of eight rows takes, the layer's own and the sampler's; no row ends early.

{token}

## All else

Once a run: loading, adapters, the trial of packing, reference log-probs, saving; two rounds' rewards and advantages.

{outside}
"""


if __name__ == "__main__":
    sys.exit(main())
