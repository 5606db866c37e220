"""A benchmark's pairs where these are its model's own responses: sampled, and labelled by the true reward."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from ...errors import InputError, nearest
from ...evaluators.reward_function import reward_of
from ...models.checkpoint import Checkpoint
from ...models.find import BUILTIN
from ...models.policy import Policy
from ...preferences.collect import Prompts, Sampling, collect, prompts_of, read_prompts
from ...preferences.labellers import SimulatedPerson, label_all
from ...preferences.labels import COLLECTION
from ...results.integrity import digest
from ...results.store import STEPS, Looking, Store, read_json
from ...runtime import processes
from ..context import MODEL_CODE, Workshop, function_code
from ..definition.spec import BenchmarkSpec

OPENINGS = {"openings": "alignment_bench.preferences.sentiment:openings"}  # prompts that are built in
LABELLER = "true_reward"


@dataclass(frozen=True)
class Collection:
    """Labelled pairs on disk, and how many of everything it took."""

    path: Path
    key: str
    """Of the stage that made them."""
    counts: dict[str, int]


def collect_pairs(spec: BenchmarkSpec, base: Checkpoint, shop: Workshop) -> Collection:
    """Sample and label a benchmark's pairs, or find them on disk; an interrupted collection goes on.

    A plan, whose store makes nothing else, has them made as well: without pairs there is nothing to plan. The first of
    several processes makes them. InputError for a function or prompts that cannot be used.
    """
    settings = spec.collected
    assert settings  # else there is nothing to collect
    field = f"{spec.place('collected', 'reward')}, collected.reward"
    reward = reward_of(settings.reward, field)
    prompts = _prompts(spec)[: settings.prompts]
    sampling = Sampling(
        k=settings.k,
        max_new_tokens=spec.max_response_tokens - 1,  # of which EOS is one more
        seed=settings.seed,
        rule="all",
        stop=settings.stop,
        drop_unfinished=True,
        margin=settings.margin,
    )
    inputs = {
        **shop.inputs((*MODEL_CODE, "preferences")),
        "base": base.key,
        "prompts": digest(prompts),
        "sampling": dataclasses.asdict(sampling),
        "reward": [settings.reward, function_code(settings.reward), settings.sharpness],
    }

    def build(out: Path) -> None:
        (out / STEPS).mkdir(exist_ok=True)  # what is there of an interrupted collection is kept
        count = f"{len(prompts):,} prompts of {spec.preferences} get {settings.k} responses each"
        logging.getLogger(__name__).warning("the pairs are not on disk and are sampled first: %s", count)
        about = {"model": spec.model, "prompts": spec.preferences}
        with processes.apart():  # the first of several processes alone, opening and passes
            policy = Policy.open(base, shop.tuning, trainable=False)
            collect(policy, f"{Path(spec.model).name}@{base.key[:12]}", prompts, sampling, out, about, lambda: reward)
        person = SimulatedPerson(LABELLER, settings.reward, settings.sharpness, seed=settings.seed)
        label_all(out, person, LABELLER)

    stage = None
    if not processes.rank():
        store = Store(shop.store.root) if isinstance(shop.store, Looking) else shop.store
        stage = store.stage("collected", inputs, build)
    stage = processes.broadcast(stage)
    return Collection(stage.path, stage.key, read_json(stage.path / COLLECTION)["counts"])


def _prompts(spec: BenchmarkSpec) -> Prompts:
    """Messages and source of the different prompts, in their order."""
    source = spec.preferences
    if not source.startswith(BUILTIN):
        return read_prompts(source, spec.preferences_split, spec.columns)[0]
    name = source.removeprefix(BUILTIN)
    if name not in OPENINGS:
        raise InputError(
            f"{spec.place('preferences')}: there are no built-in prompts {name!r}; {nearest(name, OPENINGS)}"
        )
    return prompts_of([resolve_name(OPENINGS[name])()], source)[0]
