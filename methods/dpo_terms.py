"""DPO with one term more or less: the rows that differ from it in what its sigmoid or its sum holds."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from ..results.records import LEARNING_RATE, Range
from . import losses
from .pairwise import PairLogps, PairwiseMethod

SPACE = {"lr": LEARNING_RATE, "beta": Range(0.01, 5.0, "log")}  # of DPO, on whose scale most of these betas are


@dataclass(frozen=True, kw_only=True)
class LengthNormalizedDPO(PairwiseMethod):
    """DPO on log-ratios as means over a response's tokens, so that long replies have no larger margins.

    Lambert et al. (2024, arXiv:2411.15124), eq. 6; `dpo_norm` in their open-instruct.
    """

    beta: Annotated[float, Gt(0)] = 5.0
    """Strength of the pull towards the reference a token, above 0; 5 in the paper (table 20)."""

    # From DPO's usual values to twice the paper's.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.5, 10.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "length_normalized"

    def loss(self, logps: PairLogps) -> Tensor:
        chosen, rejected = logps.mean_log_ratios
        return -F.logsigmoid(self.beta * (chosen - rejected))


@dataclass(frozen=True, kw_only=True)
class LengthRegularizedDPO(PairwiseMethod):
    """R-DPO: DPO that takes part of a longer reply's win to be for its length.

    Park et al. (2024, arXiv:2403.19159). In DPO's derivation a reward less `length_weight` a token leaves the loss
    -log sigmoid(beta h + length_weight (|y_w| - |y_l|)), with h the margin of the log-ratios.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull towards the reference, above 0; DPO's usual 0.1."""
    length_weight: Annotated[float, Ge(0)] = 0.01
    """The paper's alpha: reward that a token of length costs, at least 0; 0.01 and 0.05 are usual."""

    # Meng et al. (2024, arXiv:2405.14734), table of search ranges: alpha from 0.05 to 1; here also less.
    space: ClassVar[dict[str, Range]] = {**SPACE, "length_weight": Range(0.005, 1.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "kl_regularized_reward"

    def loss(self, logps: PairLogps) -> Tensor:
        chosen, rejected = logps.log_ratios
        longer = logps.chosen.mask.sum(1) - logps.rejected.mask.sum(1)
        return -F.logsigmoid(self.beta * (chosen - rejected) + self.length_weight * longer)


@dataclass(frozen=True, kw_only=True)
class DPOPositive(PairwiseMethod):
    """DPOP: DPO that pays for chosen replies that got less likely than they are under SFT.

    Pal et al. (2024, arXiv:2402.13228).
    """

    beta: Annotated[float, Gt(0)] = 0.3
    """Strength of the pull towards the reference, above 0; 0.3 is usual with a penalty of 50."""
    penalty: Annotated[float, Ge(0)] = 50.0
    """The paper's lambda: margin lost for a nat that the chosen reply lost, at least 0; 50 is usual."""

    # A tenth and ten times of the usual penalty; DPO's beta.
    space: ClassVar[dict[str, Range]] = {**SPACE, "penalty": Range(5.0, 500.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "least_loss"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.dpop(*logps.log_ratios, beta=self.beta, penalty=self.penalty)


@dataclass(frozen=True, kw_only=True)
class RPO(PairwiseMethod):
    """DPO plus the NLL of the chosen reply.

    Pang et al. (2024, arXiv:2404.19733). The paper trains in rounds on answers that are right or wrong; the loss is the
    same, with `nll_weight` for the alpha of its version 3.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull towards the reference, above 0; DPO's usual 0.1."""
    nll_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the chosen reply's NLL, a mean over its tokens, at least 0; 1 in the paper."""

    # Around the paper's 1; DPO's beta.
    space: ClassVar[dict[str, Range]] = {**SPACE, "nll_weight": Range(0.01, 2.0, "log")}

    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "least_loss"

    def loss(self, logps: PairLogps) -> Tensor:
        chosen, rejected = logps.log_ratios
        return -F.logsigmoid(self.beta * (chosen - rejected)) - self.nll_weight * logps.chosen.mean()


@dataclass(frozen=True, kw_only=True)
class Hinge(PairwiseMethod):
    """A hinge in place of DPO's sigmoid: SLiC on likelihoods relative to SFT.

    Zhao et al. (2023, arXiv:2305.10425); relative to the reference in Liu et al. (2024, arXiv:2309.06657).
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """1 / beta is the margin in nats from which on a pair teaches nothing, above 0."""

    # DPO's, for the margins are on the same scale.
    space: ClassVar[dict[str, Range]] = SPACE
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "hinge"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.hinge(*logps.log_ratios, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class EXO(PairwiseMethod):
    """The policy's reverse KL to smoothed labels in place of DPO's forward one.

    Ji et al. (2024, arXiv:2402.00856), eq. 16.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Scale of the log-ratios, above 0; 0.1 is usual."""
    label_smoothing: Annotated[float, Gt(0), Lt(0.5)] = 1e-3
    """Chance that a label is taken to be wrong, above 0 (else the KL is infinite) to below 0.5; 0.001 is TRL's advice,
    the authors' code has e^-10."""

    # DPO's, for the margins are on the same scale.
    space: ClassVar[dict[str, Range]] = SPACE
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "least_loss"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.exo(*logps.log_ratios, beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class SPPO(PairwiseMethod):
    """Drives the log-ratios of won and lost replies to two constants.

    Wu et al. (2024, arXiv:2405.00675), eq. 4.7. One iteration on given pairs, with a win probability of 1 or 0; the
    paper's several rounds sample anew.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """1 / eta of the paper, above 0: goals are 1 / (2 beta) nats. 0.001 there, whose 500 nats no short training
    reaches."""

    # From the paper's up to goals of half a nat.
    space: ClassVar[dict[str, Range]] = {"lr": LEARNING_RATE, "beta": Range(0.001, 1.0, "log")}
    needs_reference: ClassVar[bool] = True
    goal: ClassVar[str] = "least_loss"

    def loss(self, logps: PairLogps) -> Tensor:
        return losses.sppo(*logps.log_ratios, beta=self.beta)
