"""The base of the methods that run TRL's trainers: TRL as it is, given our checkpoint, token ids, order and budget."""

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import TrainingError
from ..models.checkpoint import Checkpoint
from ..models.lora import lora_targets
from ..models.model_files import remote_code_allowed
from ..models.policy import Policy
from ..training.ledger import Ledger
from ..training.loop import rise_and_fall
from ..training.probe import Probe
from ..training.task import TrainingTask


@dataclass(frozen=True)
class Training:
    """One training by a TRL trainer."""

    task: TrainingTask
    ledger: Ledger
    steps: int
    """Optimizer steps."""
    examples: int | None
    """Of the budget, a step; None where they are counted as they are sampled."""
    warmup: float
    """Share of the steps over which the learning rate rises."""

    def options(self, **more: Any) -> dict[str, Any]:
        """Settings of any TRL configuration; dropout is off, nothing is truncated, saved on the way or sent away."""
        device = self.task.tuning.device.split(":")[0]
        return {
            "output_dir": str(self.task.out / "trl"),
            "max_steps": self.steps,
            "seed": self.task.seed,
            "bf16": self.task.tuning.precision == "bf16",
            "use_cpu": device == "cpu",
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "report_to": [],
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "disable_tqdm": True,
            "disable_dropout": True,
            **more,
        }

    def model(self) -> Any:
        """The SFT checkpoint, a copy of its own."""
        from transformers import AutoModelForCausalLM

        # an adapter is saved with the path of its base
        path, trust = self.task.sft.path.resolve(), remote_code_allowed()
        return AutoModelForCausalLM.from_pretrained(path, dtype="float32", trust_remote_code=trust)

    def models(self, reference: bool = True) -> dict[str, Any]:
        """Arguments model, peft_config and ref_model; under LoRA the adapter switched off is the reference."""
        tuning = self.task.tuning
        if not tuning.lora_rank:
            # never let TRL load a reference by name: it may take the base
            return {"model": self.model(), **({"ref_model": self.model()} if reference else {})}
        from peft import LoraConfig

        model = self.model()
        lora = LoraConfig(
            r=tuning.lora_rank,
            lora_alpha=tuning.lora_alpha,  # type: ignore[arg-type]  # peft says int and divides it by the rank
            **lora_targets(model),
            task_type="CAUSAL_LM",
        )
        return {"model": model, "peft_config": lora}

    def adapt(self, trainer: type) -> type:
        """The trainer class with our schedule and weight decay, our log, and data taken as they are, in their order."""
        training = self

        class Adapted(trainer):
            """TRL's trainer."""

            def _prepare_dataset(self, dataset, *args, **kwargs):
                return dataset

            def create_scheduler(self, num_training_steps, optimizer=None):
                from torch.optim.lr_scheduler import LambdaLR

                rate = rise_and_fall(training.steps, training.warmup)
                self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
                return self.lr_scheduler

            def get_decay_parameter_names(self, model):
                return [name for name, _ in model.named_parameters()]  # ours decays every weight, norms as well

            def log(self, logs, *args, **kwargs):
                super().log(logs, *args, **kwargs)
                if "loss" in logs:
                    training.log(self.state.global_step, logs)

        return Adapted

    def log(self, step: int, logs: dict[str, Any]) -> None:
        """Put TRL's log of a step into ours; TrainingError if its loss or gradient is not finite."""
        if not all(math.isfinite(float(logs[name])) for name in ("loss", "grad_norm")):
            found = f"loss {logs['loss']} with gradient norm {logs['grad_norm']}"
            raise TrainingError(f"step {step}: {found}: lower the learning rate")
        self.ledger.optimizer_steps = step
        if self.examples:
            self.ledger.examples = step * self.examples
        values = {k: float(v) for k, v in logs.items() if k not in ("epoch", "learning_rate")}
        self.ledger.log(**values, lr=float(logs["learning_rate"]))


class TRLMethod:
    """Mixed into one of our methods, whose settings it keeps: a subclass builds TRL's trainer.

    A step's rows go through the model in one pass, whatever `micro_tokens` says.
    """

    needs_reference: ClassVar[bool] = False  # TRL computes its reference's log-probs itself
    libraries: ClassVar = ("trl",)
    """Libraries behind its results beside our own code."""
    settings_of: ClassVar[str]
    """Name of the method of ours whose settings a benchmark gives it, unless it names others."""

    def trainer(self, trl: Any, task: TrainingTask, ledger: Ledger) -> Any:
        """TRL's trainer, ready to train; it or what it calls puts tokens into the ledger."""
        raise TypeError(f"{type(self).__name__} must define trainer(trl, task, ledger)")

    def train(self, task: TrainingTask) -> Checkpoint:
        try:
            import trl
        except ImportError:
            raise TrainingError("TRL is not installed; pip install trl, or leave out the trl- methods") from None
        if task.tuning.device.startswith("cuda:") and task.tuning.device != "cuda:0":
            raise TrainingError(
                "TRL trains on the first visible GPU; choose it with CUDA_VISIBLE_DEVICES, not --device"
            )
        policy = Policy.open(task.sft, task.tuning, trainable=True)  # for its size; let go before TRL loads its own
        ledger = Ledger.of(policy.network, task.out)
        policy.network.close()
        try:
            trainer = self.trainer(trl, task, ledger)
        except (ImportError, AttributeError) as error:
            if not re.match(r"(No module named|module) '?trl\b|cannot import name .* from 'trl\b", str(error)):
                raise  # a mistake of ours
            raise TrainingError(
                f"TRL {trl.__version__} does not have this trainer ({error}); install a version that has it, or "
                f"leave out {type(self).__name__}"
            ) from None
        trainer.remove_callback(_printer())  # it would print between our lines
        trainer.train()
        folder = task.made.path
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
        task.sft.tokenizer().save_pretrained(folder)
        end = Policy.open(task.made, task.tuning, trainable=True)
        ledger.log(**Probe(task, end, ledger, with_samples=True)(1.0))
        end.network.close()
        ledger.close()
        return task.made


def configure(config: Any, task: TrainingTask) -> Any:
    """A TRL configuration that uses one GPU at most."""
    if task.tuning.device.startswith("cuda"):
        config.device  # noqa: B018  (settles the count of GPUs, which is then set to one)
        config._n_gpu = 1
    return config


def _printer() -> type:
    from transformers import PrinterCallback

    return PrinterCallback
