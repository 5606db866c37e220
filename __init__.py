"""A comparative benchmark suite for alignment methods: same SFT checkpoint, same pairs, same budget, one verdict.

from alignment_bench import load_run, plan, run

results = run("quick", ["ppo", "dpo"], seeds=3)
results.verdict, results.table, results.scores
"""

from typing import TYPE_CHECKING, Any

__all__ = ["load_run", "next_round", "plan", "run", "tune"]


if TYPE_CHECKING:
    from .benchmarks.api import load_run, next_round, plan, run, tune
else:

    def __getattr__(name: str) -> Any:
        """The Python API, imported when it is first used: importing the package itself takes no time."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .benchmarks import api

        return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
