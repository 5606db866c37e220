"""A benchmark's definition: a YAML file, checked field by field."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from ...analysis.selection import CRITERIA
from ...errors import InputError
from ...models.chat import Template
from ...preferences.sentence import Stop
from ...results.records import Range
from ...runtime.device import MICRO_TOKENS
from ..tracker import TRACKERS
from .plugins import checked
from .yaml_file import Written, read_benchmark

LAST, BY_REWARD_MODEL, BY_KL = "last", "selection_reward_model", "kl"  # what `evaluation.checkpoint.by` may be
BY_HASH, LOW_CHES, HIGH_CHES = "hash", "low_ches", "high_ches"  # what `training_pairs.by` may be
LENGTH = "length"  # the taste of labellers that no function says
SUITES = Path(__file__).parent.parent / "suites"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Splits(Part):
    """Shares of the prompts, scaled to sum to 1. All pairs of a prompt stay on one side."""

    sft: float = Field(default=0.25, ge=0)
    """Pairs whose replies SFT imitates; left out, and shared out among the others, where SFT imitates no pairs."""
    training: float = Field(default=0.40, gt=0)
    """Pairs of the training reward model and of every method."""
    evaluation: float = Field(default=0.20, gt=0)
    """Pairs of the evaluation reward model."""
    heldout: float = Field(default=0.15, gt=0)
    """Pairs that test both reward models and SFT; their prompts are answered in the evaluation."""
    selection: float = Field(default=0.0, ge=0)
    """Pairs of the reward model by which `bench tune` may choose settings; 0 where nothing is tuned."""
    tuning: float = Field(default=0.0, ge=0)
    """Pairs that test that reward model; their prompts are answered by the trials of `bench tune`."""

    @property
    def shares(self) -> dict[str, float]:
        """The splits that there are: those with a share."""
        return {name: share for name, share in self.model_dump().items() if share}


class Selection(Part):
    """The rule by which `bench tune` picks a method's settings among its trials, fixed before they are trained."""

    by: Literal[*CRITERIA] = "selection_reward_model"  # type: ignore[valid-type]  # the names stand in one place
    """The scorer of the trials' responses to the tuning prompts: the reward model of the split `selection`, the judge,
    the true reward (gold), or the labels of the tuning pairs, by which the policy's implicit reward is right or not."""
    at_most_kl: Annotated[float, Field(gt=0)] | Literal["none"] = 1.0
    """Mean KL to SFT in nats above which a trial is not picked, unless all are; none sets no limit."""
    margin: float = Field(default=0.0, ge=0, lt=0.5)
    """Trials within this of the best count as equal, and the one with the lowest KL is picked; a share, 0 to 0.5."""
    beside: tuple[Literal[*CRITERIA], ...] = ()  # type: ignore[valid-type]
    """Further scorers that are asked, to show what each would have picked; a judge costs what it asks."""
    force: bool = False
    """Permission to go by a learnt scorer without a limit of the KL."""

    @property
    def limit(self) -> float | None:
        """Nats; None where there is no limit."""
        return None if self.at_most_kl == "none" else self.at_most_kl


class Supervised(Part):
    """Settings of a stage that trains once for all methods (SFT, reward models)."""

    examples: int = Field(gt=0)
    """Rows drawn, repeats counted."""
    lr: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    batch_size: int = Field(default=16, gt=0)
    """Rows per optimizer step."""


class SupervisedFineTuning(Supervised):
    """Settings of SFT."""

    replies: Literal["chosen", "both"] = "chosen"
    """The replies of its pairs that SFT imitates; both where the pairs are drawn from demonstrators at large."""
    seed: int = Field(default=0, ge=0)
    """Seed of its training, the same for all rows and seeds of a run."""


class Labels(Part):
    """Errors made on purpose in the pairs that methods and the training reward model learn from, and nowhere else."""

    flip: float = Field(default=0.0, ge=0, le=0.5)
    """Share of these pairs whose replies change sides."""
    bias: float = Field(default=0.0, ge=0, le=1)
    """Share of these pairs in which the labeller goes by a taste, whichever reply was preferred; flips come after."""
    taste: str = LENGTH
    """The reply that a biased labeller chooses: the longer one (length), or the one to which a function gives more
    (package.module:function, of the form that the evaluator `gold` takes)."""


class TrainingPairs(Part):
    """The pairs of the training split that methods and the training reward model learn from; all other splits stay."""

    most: int | None = Field(default=None, gt=0)
    """At most this many of them; null takes all."""
    by: Literal[BY_HASH, LOW_CHES, HIGH_CHES] = Field(  # type: ignore[valid-type]  # the names stand in one place
        default=BY_HASH, exclude_if=lambda value: value == BY_HASH
    )
    """Which of them `most` takes: those of the smallest hashes, or of the lowest or highest CHES, which measures how
    alike the base model's hidden states of two replies are (`models/ches.py`)."""
    without: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Pairs of this subset are left out, so that no pair that methods learn from is of that kind; null leaves none."""
    alike: float = Field(default=0.0, ge=0, lt=1)
    """Pairs whose replies have less than this in common are left out; twice the tokens of their longest common
    subsequence over the tokens of both, 0 to 1."""


class RewardModels(Supervised):
    """Settings of both reward models."""

    seed: int = Field(default=0, ge=0)
    """Another number trains them anew: their seeds are 3 seed + 1 (training), + 2 (evaluation), + 3 (selection)."""
    model: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Model that they start from: hub id, local folder, or builtin/NAME, of the benchmark's vocabulary and any size;
    the benchmark's own model is that before SFT, null is the SFT checkpoint."""
    training_model: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The same for the training reward model alone, in place of `model`."""
    pairs: int | None = Field(default=None, gt=0)
    """At most this many pairs for the training reward model, chosen by hash; null takes all of its split."""
    comparing_pairs: int | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    """The same for the comparing reward models (evaluation, selection)."""
    contrast: float = Field(default=0.0, ge=0, lt=1)
    """Share of contrast pairs in what the comparing reward models (evaluation, selection) learn from: a reply over
    another prompt's, or over the same reply cut, repeated or scrambled. They need no labels and come on top of
    `examples`."""
    contrast_in_training: bool = False
    """Contrast pairs for the training reward model too, which is what methods then optimize."""

    def model_of(self, role: str) -> str | None:
        """The model that a reward model starts from; None for the SFT checkpoint."""
        return (self.training_model if role == "training" else None) or self.model

    def pairs_of(self, role: str) -> int | None:
        """The most pairs of a reward model; None for all of its split."""
        return self.pairs if role == "training" else self.comparing_pairs

    def contrast_of(self, role: str) -> float:
        """The share of contrast pairs of a reward model: training, evaluation or selection."""
        return self.contrast if role != "training" or self.contrast_in_training else 0.0

    def drawn(self, role: str) -> int:
        """Pairs that a reward model draws, contrast pairs among them."""
        return round(self.examples / (1 - self.contrast_of(role)))


class TuningSpec(Part):
    """Training settings."""

    lora_rank: int = Field(default=0, ge=0)
    """Rank of the LoRA adapters; 0 trains every weight."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """LoRA's scale: the update is multiplied by alpha / rank."""
    base_bits: Literal[4] | None = None
    """Bits a weight of the frozen base under LoRA, for SFT, every method, the reference and reward models alike: 4 is
    NF4 (QLoRA; pip install 'alignment-bench[qlora]'); null is what `precision` says."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 where the device has units for it and, on a CPU, the model is wide enough to gain by them; else
    fp32."""
    micro_tokens: int = Field(default=MICRO_TOKENS, gt=0)
    """Tokens in one forward pass; bounds memory, leaves results alone."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Layers and logits are computed again in the backward pass and not kept, which saves most of the memory that grows
    with micro_tokens and leaves results alone; auto where a pass would not fit into what is free on the GPU."""
    sampler: Literal["torch", "vllm"] = "torch"
    """The sampler, in training and evaluation: this package, or vLLM (pip install 'alignment-bench[vllm]')."""
    deterministic: bool = False
    """Take a GPU's sums in one order, so that equal trainings are equal to the last bit; slower. A CPU does anyway."""
    vllm_memory: float = Field(default=0.3, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes while it samples, its weights included; a CPU gives what it needs."""
    vllm_sequences: int = Field(default=64, gt=0)
    """Most responses that vLLM draws at once."""


class CheckpointRule(Part):
    """The rule by which the checkpoint of a training is picked that is evaluated, the same for all methods."""

    by: Literal[LAST, BY_REWARD_MODEL, BY_KL] = LAST  # type: ignore[valid-type]  # the names stand in one place
    """The final policy (last); the highest win rate against SFT on the tuning prompts by the reward model of the split
    `selection`, among checkpoints within `kl` (selection_reward_model); or the first that reaches `kl`, else the last
    (kl). The latter two pick among the checkpoints of `along`, on the tuning prompts."""
    kl: float = Field(default=1.0, gt=0)
    """Mean KL to SFT in nats, above 0."""


class Evaluation(Part):
    """Sampling settings for scoring."""

    prompts: int = Field(default=200, gt=0)
    """Held-out prompts that every policy answers."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; the KL is that of the policy itself at 1.0."""
    questions: str | None = None
    """A file of prompts that every policy answers, in place of the held-out pairs'; those that anything is trained or
    tuned on are left out and counted."""
    along: int = Field(default=0, ge=0, le=50)
    """Checkpoints along training that are scored as well, at shares of the budget that grow by one factor, to show
    over-optimization; saving them counts in a method's training time."""
    without_thoughts: bool = False
    """Scorers see responses without the thoughts before the answer (<think>...</think>); where these never end there is
    no answer."""
    checkpoint: CheckpointRule = Field(default=CheckpointRule(), exclude_if=lambda rule: rule.by == LAST)


class Gates(Part):
    """Thresholds between stages."""

    reward_model_accuracy: float = Field(default=0.70, gt=0, lt=1)
    """Held-out pair accuracy that a reward model should reach."""


class Collected(Part):
    """Pairs that are sampled from the benchmark's model and labelled by its true reward, where no others are at hand.

    Every two different responses to a prompt are a pair, of which a Bradley-Terry draw on the reward chooses one.
    """

    reward: str
    """The true reward as a function, package.module:function, of the form that the evaluator `gold` takes."""
    prompts: int | None = Field(default=None, gt=0)
    """At most this many prompts, the first ones; null takes all."""
    k: int = Field(default=8, ge=2)
    """Responses to each prompt."""
    stop: Stop = "eos"
    """The end of a response: the model's own, or that of the first sentence where it comes before. A response without
    an end in `max_response_tokens` is dropped and counted."""
    margin: float = Field(default=0.0, ge=0)
    """Pairs whose rewards differ by less are left out and counted."""
    sharpness: float = Field(default=8.0, gt=0)
    """Bradley-Terry scale of the labels: nats of log-odds per unit of reward."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling and of the labels."""


class BenchmarkSpec(Part):
    """A benchmark: a model, preferences, budgets, and the settings of methods and evaluators."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Letters, digits, dots, dashes and underscores, 64 at most, a letter or digit first; the folder of its runs."""
    description: str = ""
    """A line for `bench list`."""
    model: str
    """Base model: hub id, local folder, or builtin/NAME."""
    template: Template = Field(default="chat", exclude_if=lambda template: template == "chat")
    """The form of a prompt: the model's chat template (chat), or the bare text of its messages, which responses go on
    with, as for a base model (text)."""
    preferences: str
    """Preference pairs: hub id, local file or folder, or builtin/NAME; with `collected`, the prompts in them alone."""
    collected: Collected | None = Field(default=None, exclude_if=lambda collected: collected is None)
    """Pairs of the model's own responses; null reads pairs."""
    preferences_split: str = "train"
    """Split of a hub data set."""
    columns: dict[str, str] = {}
    """Columns of the preferences that have other names, by ours: prompt: question, chosen: answer_a."""
    unpaired: str | None = None
    """A file of replies rated on their own (prompt, completion, label), for methods that learn from such."""
    demonstrations: str | None = None
    """A file of replies that SFT imitates in place of the pairs' (prompt and completion, or messages); those to prompts
    kept for evaluation or tuning are left out and counted."""
    prompts: str | None = None
    """A file of prompts that methods sample from in place of the training pairs'; those that are kept for evaluation or
    tuning are left out and counted."""
    more_pairs: tuple[str, ...] = Field(default=(), exclude_if=lambda sources: not sources)
    """Labelled pairs (hub ids, files or folders) that methods and the training reward model learn from beside those of
    their split, such as labels of a policy's own responses; pairs on prompts of other splits are left out."""
    rows: int | None = Field(default=None, gt=0)
    """At most this many usable pairs are taken, chosen by hash; null takes all."""
    splits: Splits = Splits()
    split_seed: int = 0
    """Seed of the split by prompt."""
    max_prompt_tokens: int = Field(gt=0)
    """Longer prompts are dropped and counted."""
    max_response_tokens: int = Field(gt=1)
    """Pairs with a longer reply (EOS included) are dropped and counted; sampling stops there."""
    tuning: TuningSpec = TuningSpec()
    sft: SupervisedFineTuning | None
    """null trains none: every method starts from the model as it is."""
    reward_model: RewardModels
    training_reward: str | None = None
    """The reward that methods are trained on, in place of a reward model trained here: a sequence classifier (hub id or
    local folder), or a function, package.module:function, of the form that the evaluator `gold` takes."""
    training_pairs: TrainingPairs = Field(default=TrainingPairs(), exclude_if=lambda pairs: pairs == TrainingPairs())
    labels: Labels = Labels()
    budget: int = Field(gt=0)
    """Examples a method may draw: pairs (offline) or sampled responses (online), repeats counted."""
    evaluation: Evaluation = Evaluation()
    gates: Gates = Gates()
    margin: float = Field(default=0.05, gt=0, lt=0.5)
    """Difference of win rates that matters in practice, stated before; within it two methods count as equal."""
    methods: dict[str, dict[str, Any]] = {}
    """Hyperparameters by method."""
    method_defaults: dict[str, Any] = {}
    """Hyperparameters for every method that has fields of these names; `methods` goes over them."""
    policies: dict[str, str] = {}
    """Policies that were trained elsewhere, as further rows: by name a hub id or local folder, adapters too."""
    space: dict[str, dict[str, Range]] = {}
    """Search spaces of `bench tune` by method and field, over those that methods declare."""
    select: Selection = Selection()
    external_pairs: str | None = None
    """Preference pairs from elsewhere on which the reward models are tested: hub id, local file or folder."""
    evaluators: dict[str, dict[str, Any]] = {"reward_model": {}, "divergence": {}, "length": {}}
    """Evaluators with their settings."""
    tracker: Literal[*TRACKERS] | None = None  # type: ignore[valid-type]  # the names stand in one place
    """Tracker that logs, scores and the summary are sent to as well."""
    _written: Written | None = PrivateAttr(None)

    @property
    def shares(self) -> dict[str, float]:
        """The shares of the splits that there are; none for SFT where it imitates no pairs."""
        without = () if self.sft and not self.demonstrations else ("sft",)
        return {name: share for name, share in self.splits.shares.items() if name not in without}

    def with_fields(self, values: Mapping[str, Any], place: str) -> "BenchmarkSpec":
        """The same with some fields set, each dotted; InputError that names `place` for what a field refuses."""
        places: dict[tuple[str, ...], str] = {(): f"benchmark {self.name}"}
        written = Written(self.model_dump(), self._written.places if self._written else places)
        for field, value in values.items():
            written = written.with_field(tuple(field.split(".")), value, place)
        return _of(written)

    def place(self, *field: str) -> str:
        """The place of a field, for errors: `file quick.yaml, line 12`, or an option of the command line."""
        return self._written.place(field) if self._written else f"benchmark {self.name}"


def suites() -> dict[str, Path]:
    """The benchmarks that are shipped, by name."""
    return {path.stem: path for path in sorted(SUITES.glob("*.yaml"))}


def load_spec(
    name: str, overrides: dict[str, Any] | None = None, settings: Sequence[str] = (), size: str | None = None
) -> BenchmarkSpec:
    """Read a benchmark by name or path, of one of its sizes where one is named.

    overrides replace top-level fields by options of their name (None leaves a field alone); settings are
    `FIELD=VALUE`, the field dotted. InputError names file, line and field, or the option.
    """
    written = read_benchmark(name, suites(), settings, size)
    for field, value in (overrides or {}).items():
        if value is not None:
            written = written.with_field((field,), value, f"--{field.replace('_', '-')}")
    for field in ("model", "preferences"):
        if field not in written.fields:
            known = written.fields.get("name", name)
            raise InputError(f"{written.place(())}: benchmark {known!r} needs a {field}; give it with --{field}")
    return _of(written)


def _of(written: Written) -> BenchmarkSpec:
    """The benchmark of what was written; InputError for a null that a default would take the place of unsaid."""
    spec = checked(BenchmarkSpec, written.fields, written.place)
    for field in sorted(written.left_out):
        found: Any = spec
        for name in field:  # to an entry of a mapping, which may be left out, and no further
            part, found = found, getattr(found, name, None) if isinstance(found, BaseModel) else None
        if found:  # a default of nothing, as of a split's share, is what a null means
            meant = type(part).model_fields[field[-1]].description or ""
            raise InputError(
                f"{written.place(field)}: {'.'.join(field)} is never null; leave it out for {found!r}, or give another "
                f"({meant[:1].lower()}{meant[1:].rstrip('.')})"
            )
    spec._written = written
    return spec


def describe_suite(name: str) -> str:
    """A shipped benchmark's description of itself."""
    return read_benchmark(name, suites()).fields.get("description", "")
