"""Numbers as people read them: shares, seconds, FLOPs, memory, p. None and NaN mean "not measured": a dash."""

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

# Key of a cost -> how it is called.
COSTS = {
    "seconds": "Time",
    "flops": "Compute",
    "trained_tokens": "Trained tokens",
    "generated_tokens": "Generated tokens",
    "reward_queries": "Reward queries",
    "peak_memory_mb": "Peak memory",
}
MISSING = "–"


def measured(value: Any) -> TypeGuard[float]:
    """True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 2) -> str:
    if not measured(value):
        return MISSING
    return f"{value:,.{digits if abs(value) < 100 else 0}f}".replace("-", "−")


def signed(value: float, digits: int = 0) -> str:
    """With its sign; what rounds to nothing has a plus from either side."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text.replace("-", "+")


def unsigned(value: float, digits: int = 0) -> str:
    """A number of so many digits; what rounds to nothing has no sign."""
    return signed(value, digits).removeprefix("+")


def share(value: Any) -> str:
    """A share of one as percent with one decimal."""
    return f"{100 * value:.1f}%".replace("-", "−") if measured(value) else MISSING


def p_value(value: Any) -> str:
    return MISSING if not measured(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def seconds(value: Any) -> str:
    if not measured(value):
        return MISSING
    if value < 60:
        return f"{value:.{1 if value < 10 else 0}f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def scaled(
    value: Any, step: int = 1000, units: Sequence[str] = ("", " k", " M", " B", " T"), exact: float = 1e4
) -> str:
    """With the unit that leaves one to three digits before the point; plain below `exact`."""
    if not measured(value):
        return MISSING
    if value < exact:
        return f"{value:,.0f}{units[0]}"
    place, rest = 0, value
    while round(rest) >= step and place + 1 < len(units):
        place, rest = place + 1, rest / step
    return f"{rest:.{2 if rest < 10 else 1 if rest < 100 else 0}f}{units[place]}"


def memory(value: Any) -> str:
    """Of MiB."""
    return scaled(value, 1024, (" MiB", " GiB", " TiB"), exact=1024)


def flops(value: Any) -> str:
    return scaled(value, units=(" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP", " EFLOP"), exact=1000)


def cost(value: Any, key: str) -> str:
    """A cost with its unit, which is read from the end of its name."""
    endings = {"seconds": seconds, "_mb": memory, "flops": flops}
    return next((write for end, write in endings.items() if key.endswith(end)), scaled)(value)


def in_points(number: str) -> str:
    """A number of percentage points, with its sign or without."""
    return f"{number} point{'' if number.lstrip('+-') == '1' else 's'}"
