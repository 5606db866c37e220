"""The losses of methods beside TRL's own: the same log-probs into both, losses and gradients out of both.

python -m alignment_bench.benchmarks.selfcheck.parity

Writes results/published/parity.json: of each method the version of TRL, what computed there, and the largest relative
difference; and trl_losses.json beside it: the log-probs with TRL's losses and gradients, which are still there when a
trainer is not. TRL's trainers are not run: their functions are given log-probs where their models would have told them.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...methods import losses
from ...methods.alphapo import AlphaPO
from ...methods.apo import APODown, APOZero
from ...methods.cpo import CPO
from ...methods.dpo import DPO
from ...methods.dpo_terms import EXO, RPO, SPPO, Hinge, LengthNormalizedDPO
from ...methods.grouped import Group, GroupedMethod
from ...methods.grpo import GRPO
from ...methods.grpo_terms import CISPO, DAPO, GSPO, DrGRPO
from ...methods.ipo import IPO
from ...methods.kto import KTO
from ...methods.orpo import ORPO
from ...methods.pairwise import PairLogps, PairwiseMethod
from ...methods.rloo import RLOO
from ...methods.robust_dpo import RobustDPO
from ...methods.simpo import SimPO
from ...methods.wpo import WPO, weights
from ...models.policy import TokenValues
from ...results.integrity import write_json
from ..definition.proof import PARITY, PUBLISHED

RECORDED = "trl_losses.json"
LENGTHS = (4, 2, 4, 6, 4, 3, 4, 5)  # of chosen and rejected replies by turns; chosen ones alike, for TRL's mean NLL
GROUPS, K, LONGEST = 2, 4, 7  # prompts with so many responses of a round each


@dataclass(frozen=True)
class Tokens:
    """Made-up log-probs of responses, [responses, longest], 0 on padding; of pairs the chosen ones come first."""

    new: Tensor
    """Of the policy; gradients flow."""
    old: Tensor
    reference: Tensor
    expected: Tensor
    """Log of the sum of p^2 at each token."""
    mask: Tensor

    @classmethod
    def draw(cls) -> "Tokens":
        """Near enough to each other for ratios on both sides of every clip."""
        generator = torch.Generator().manual_seed(0)
        lengths = torch.tensor([*LENGTHS[::2], *LENGTHS[1::2]])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        noise = [torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mask for _ in range(4)]
        new = (-1.5 * mask - 0.5 * noise[0].abs()).requires_grad_()
        old, reference = (new.detach() + scale * part for scale, part in zip((0.3, 0.6), noise[1:], strict=False))
        return cls(new, old, reference, -1.2 * mask + 0.3 * noise[3], mask)

    @property
    def pairs(self) -> PairLogps:
        """The same as a pairwise loss is given them."""
        chosen, rejected = (TokenValues(*parts) for parts in zip(self.new.chunk(2), self.mask.chunk(2), strict=True))
        reference_chosen, reference_rejected = self.reference.sum(1).chunk(2)
        return PairLogps(chosen, rejected, reference_chosen, reference_rejected, chosen_prompt=None)


Loss = Callable[[Tokens], Tensor]


@dataclass(frozen=True)
class Case:
    """A method's loss here and in TRL."""

    ours: Loss
    theirs: Loss
    of: str
    """What computes it in TRL."""


# --- TRL's functions, on objects that have what they read


def _trainer(**attributes: Any) -> SimpleNamespace:
    """A trainer's attributes: one process, one pass a step, nothing besides the loss."""

    def same(values: Any, **how: Any) -> Any:
        return values

    accelerator = SimpleNamespace(device="cpu", num_processes=1, gather=same, gather_for_metrics=same, reduce=same)
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )


def trl_dpo(tokens: Tokens, *, label_smoothing: float = 0.0, weights: tuple[float, ...] = (1.0,), **own: Any) -> Tensor:
    """DPOTrainer's loss; a prompt of one token stands before each response."""
    from trl import DPOTrainer

    reference_chosen, reference_rejected = tokens.reference.sum(1).chunk(2)
    mask = torch.cat([torch.zeros(len(tokens.mask), 1), tokens.mask], 1).long()
    outputs = SimpleNamespace(log_probs=tokens.new, log_sum_sq_probs=tokens.expected)
    outputs.entropy = outputs.mean_logits = torch.zeros_like(tokens.new)
    outputs.is_top1 = tokens.mask
    trainer = _trainer(
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        precompute_ref_logps=True,
        label_smoothing=label_smoothing,
        loss_weights=weights,
        **{"use_weighting": False, **own},
    )
    inputs = {
        "input_ids": mask, "attention_mask": mask, "completion_mask": mask,
        "ref_chosen_logps": reference_chosen, "ref_rejected_logps": reference_rejected,
    }  # fmt: skip
    trainer.model = SimpleNamespace(training=True)
    model: Any = lambda **how: outputs  # noqa: E731
    return DPOTrainer._compute_loss(trainer, model, inputs, False)  # type: ignore[arg-type]  # what it reads is there


def trl_cpo(tokens: Tokens, *, nll_weight: float = 0.0, mean: bool, **own: Any) -> Tensor:
    """The experimental CPOTrainer's loss, with its NLL beside it."""
    from trl.experimental.cpo import CPOTrainer

    logps = [side.mean() if mean else side.sum() for side in (tokens.pairs.chosen, tokens.pairs.rejected)]
    trainer = _trainer(label_smoothing=0.0, **{"alpha": 0.0, "simpo_gamma": 0.0, **own})
    each = CPOTrainer.cpo_loss(trainer, *logps)[0]  # type: ignore[arg-type]  # what it reads is there
    return each.mean() + nll_weight * nll(tokens)


def trl_orpo(tokens: Tokens, *, beta: float) -> Tensor:
    """The experimental ORPOTrainer's loss, with its NLL beside it."""
    from trl.experimental.orpo import ORPOTrainer

    logps = tokens.pairs.chosen.mean(), tokens.pairs.rejected.mean()
    each = ORPOTrainer.odds_ratio_loss(_trainer(beta=beta), *logps)[0]  # type: ignore[arg-type]  # as above
    return nll(tokens) - each.mean()


def trl_kto(tokens: Tokens, *, drift: float, **own: Any) -> Tensor:
    """KTOTrainer's loss for a drift that is measured."""
    from trl import KTOTrainer

    mask = torch.cat([torch.zeros(len(tokens.mask), 1), tokens.mask], 1).long()
    outputs = SimpleNamespace(log_probs=tokens.new, entropy=torch.zeros_like(tokens.new))
    outputs.mean_logits, outputs.is_top1 = torch.zeros_like(tokens.new), tokens.mask
    half, reference = len(tokens.mask) // 2, tokens.reference.sum(1)
    batch = {
        "input_ids": mask, "attention_mask": mask, "completion_mask": mask, "ref_logps": reference,
        "label": torch.tensor([1] * half + [0] * half), "ref_KL_logps": reference,
    }  # fmt: skip
    trainer = _trainer(
        calculate_KL=True,
        loss_type="kto",
        precompute_ref_logps=True,
        _compute_kl_logps=lambda model, batch: reference + drift,
        **own,
    )
    model: Any = lambda **how: outputs  # noqa: E731
    return KTOTrainer._compute_loss(trainer, model, batch, False)  # type: ignore[arg-type]  # as above


def nll(tokens: Tokens) -> Tensor:
    """A chosen token's mean negative log-likelihood, as TRL's trainers have it."""
    return -tokens.pairs.chosen.values.sum() / tokens.pairs.chosen.mask.sum()


def trl_grouped(
    trainer: str, tokens: Tokens, *, advantages: Tensor, epsilon: tuple[float, float], **own: Any
) -> Tensor:
    """GRPOTrainer's or RLOOTrainer's loss of one step on a whole round."""
    import trl

    zeros, ids = torch.zeros_like(tokens.new), tokens.mask.long()
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": ids,
        "advantages": advantages.flatten(), "old_per_token_logps": tokens.old, "old_logps": tokens.old.sum(1),
        "ref_per_token_logps": tokens.reference, "num_items_in_batch": tokens.mask.sum(),
    }  # fmt: skip
    given = _trainer(
        _get_per_token_logps_and_entropies=lambda *args, **how: (tokens.new, zeros, None),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        max_completion_length=LONGEST,
        epsilon_low=epsilon[0],
        epsilon_high=epsilon[1],
        **{"importance_sampling_level": "token", **own},
    )
    return getattr(trl, trainer)._compute_loss(given, None, inputs)


# --- ours


def of_pairs(method: PairwiseMethod, tokens: Tokens) -> Tensor:
    return method.loss(tokens.pairs).mean()


def of_weighted_pairs(method: WPO, tokens: Tokens) -> Tensor:
    both, expected = (TokenValues(values, tokens.mask) for values in (tokens.new, tokens.expected))
    return (weights(both, expected) * method.loss(tokens.pairs)).mean()


def of_couples(method: KTO, tokens: Tokens, *, drift: float) -> Tensor:
    chosen, rejected = (
        losses.kto(*side, torch.tensor(drift), beta=method.beta, desirable=good)
        for good, side in zip(
            (True, False), zip(tokens.new.sum(1).chunk(2), tokens.reference.sum(1).chunk(2), strict=True), strict=True
        )
    )
    return ((method.desirable_weight * chosen + method.undesirable_weight * rejected) / 2).mean()


def of_groups(method: GroupedMethod, advantages: Tensor, tokens: Tokens) -> Tensor:
    new, mean = TokenValues(tokens.new, tokens.mask), float(tokens.mask.sum() / len(tokens.mask))
    return method.loss(Group(new, tokens.old, tokens.reference, advantages, LONGEST, mean))[0].mean()


def _pairs(method: PairwiseMethod, loss: str, ours: Any = of_pairs, **own: Any) -> Case:
    """A loss of DPOTrainer; own: its settings beside beta."""
    kinds = loss.split("+")
    theirs = partial(trl_dpo, beta=getattr(method, "beta"), loss_types=kinds, **own)  # noqa: B009
    return Case(partial(ours, method), theirs, f"DPOTrainer, loss_type {loss}")


def _groups(
    method: GroupedMethod, trainer: str = "GRPOTrainer", epsilon: tuple[float, float] = (0.2, 0.2), **own
) -> Case:
    rewards = torch.randn(GROUPS, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    advantages = method.advantages(rewards, torch.zeros_like(rewards))
    theirs = partial(trl_grouped, trainer, advantages=advantages, epsilon=epsilon, beta=getattr(method, "beta"), **own)  # noqa: B009
    said = ", ".join([trainer, *(f"{name} {value}" for name, value in own.items())])
    return Case(partial(of_groups, method, advantages), theirs, said)


def cases() -> dict[str, Case]:
    """By name of a method: its loss with settings that TRL has as well, none at a value where two of them agree."""
    kto = KTO(beta=0.5, desirable_weight=1.2, undesirable_weight=0.7)
    trl_same_kto = partial(trl_kto, beta=0.5, drift=0.4, desirable_weight=1.2, undesirable_weight=0.7)
    rpo, exo, robust = RPO(beta=0.5, nll_weight=0.3), EXO(beta=0.5, label_smoothing=0.05), RobustDPO(beta=0.5)
    cpo, simpo, alphapo = CPO(beta=0.5, nll_weight=0.3), SimPO(beta=2.0, gamma=0.4), AlphaPO(gamma=0.4)
    trl_simpo = partial(trl_cpo, mean=True, loss_type="simpo", beta=2.0, simpo_gamma=0.4)
    return {
        "dpo": _pairs(DPO(beta=0.5), "sigmoid"),
        "robust_dpo": _pairs(robust, "robust", label_smoothing=robust.flip_rate),
        "ipo": _pairs(IPO(beta=0.5), "ipo"),
        "hinge": _pairs(Hinge(beta=0.5), "hinge"),
        "exo": _pairs(exo, "exo_pair", label_smoothing=exo.label_smoothing),
        "sppo": _pairs(SPPO(beta=0.5), "sppo_hard"),
        "apo_zero": _pairs(APOZero(beta=0.5), "apo_zero"),
        "apo_down": _pairs(APODown(beta=0.5), "apo_down"),
        "dpo_norm": _pairs(LengthNormalizedDPO(beta=2.0), "sigmoid_norm"),
        "rpo": _pairs(rpo, "sigmoid+sft", weights=(1.0, rpo.nll_weight)),
        "wpo": _pairs(WPO(beta=0.5), "sigmoid", of_weighted_pairs, use_weighting=True),
        "cpo": Case(
            partial(of_pairs, cpo),
            partial(trl_cpo, mean=False, loss_type="sigmoid", beta=0.5, nll_weight=0.3),
            "experimental CPOTrainer, loss_type sigmoid",
        ),
        "simpo": Case(partial(of_pairs, simpo), trl_simpo, "experimental CPOTrainer, loss_type simpo"),
        "alphapo": Case(
            partial(of_pairs, alphapo),
            partial(trl_simpo, alpha=alphapo.alpha),
            "experimental CPOTrainer, loss_type simpo with alpha",
        ),
        "orpo": Case(partial(of_pairs, ORPO(weight=0.3)), partial(trl_orpo, beta=0.3), "experimental ORPOTrainer"),
        "kto": Case(partial(of_couples, kto, drift=0.4), trl_same_kto, "KTOTrainer"),
        "rloo": _groups(RLOO(clip=0.2), "RLOOTrainer"),
        "grpo": _groups(GRPO(beta=0.3), loss_type="grpo"),
        "dr_grpo": _groups(DrGRPO(beta=0.3), loss_type="dr_grpo"),
        "dapo": _groups(DAPO(beta=0.3, clip=0.1, clip_high=0.28), epsilon=(0.1, 0.28), loss_type="dapo"),
        "gspo": _groups(
            GSPO(beta=0.3, clip=0.1, clip_high=0.28),
            epsilon=(0.1, 0.28),
            loss_type="grpo",
            importance_sampling_level="sequence",
        ),
        "cispo": _groups(CISPO(beta=0.3, ratio_cap=1.2), epsilon=(0.0, 1.2), loss_type="cispo"),
    }


def evaluate(loss: Loss, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """A loss and its gradient for the policy's log-probs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of TRL's say that they are experimental
        value = loss(tokens)
    (gradient,) = torch.autograd.grad(value, tokens.new)
    return value.detach(), gradient * tokens.mask


def between(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    """The larger of the relative differences of loss and gradient (by norms)."""
    (loss, slopes), (other, others) = ours, theirs
    return max(float((loss - other).abs() / other.abs()), float((slopes - others).norm() / others.norm()))


def difference(case: Case) -> float:
    """Between ours and TRL's as it is installed. InputError where it has no such trainer (any more)."""
    try:
        theirs = evaluate(case.theirs, Tokens.draw())
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the installed TRL has no {case.of} ({error}); what an earlier one said is in {RECORDED}"
        ) from None
    return between(evaluate(case.ours, Tokens.draw()), theirs)


def record(names: Mapping[str, Case]) -> dict[str, Any]:
    """Log-probs as they are drawn, and what the installed TRL says of them."""
    tokens = Tokens.draw()
    said = {}
    for name, case in names.items():
        value, gradient = evaluate(case.theirs, tokens)
        said[name] = {"trl": version("trl"), "of": case.of, "loss": float(value), "gradient": gradient.tolist()}
    kept = {name: getattr(tokens, name).tolist() for name in ("new", "old", "reference", "expected")}
    return {"torch": version("torch"), "tokens": kept, "cases": said}


def recorded_difference(name: str, case: Case, recorded: Mapping[str, Any]) -> float:
    """Between ours and what TRL said when it was recorded, of the log-probs that were recorded."""
    parts = {key: torch.tensor(values, dtype=torch.float64) for key, values in recorded["tokens"].items()}
    tokens = Tokens(**{**parts, "new": parts["new"].requires_grad_()}, mask=Tokens.draw().mask)
    found = recorded["cases"][name]
    theirs = (torch.tensor(found["loss"]), torch.tensor(found["gradient"], dtype=torch.float64))
    return between(evaluate(case.ours, tokens), theirs)


def main() -> None:
    path = PUBLISHED / PARITY
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows.pop("sha256", None)
    trl = version("trl")
    rows |= {name: {"trl": trl, "of": case.of, "difference": difference(case)} for name, case in cases().items()}
    write_json(path, rows)
    write_json(PUBLISHED / RECORDED, record(cases()))
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
