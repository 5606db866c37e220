"""cDPO: conservative DPO, Mitchell (2023), "A note on DPO with noisy preferences and relationship to IPO"."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt

from ..results.records import Range
from .dpo import DPO


@dataclass(frozen=True, kw_only=True)
class CDPO(DPO):
    """DPO that takes a share of the labels to be flipped and stops short of certainty."""

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    """Assumed share of flipped labels, 0 to below 0.5."""

    # DPO's, and smoothing from nearly clean labels to badly flipped ones; the note has no range.
    space: ClassVar[dict[str, Range]] = {**DPO.space, "label_smoothing": Range(0.01, 0.3, "linear")}
