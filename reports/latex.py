"""Tables for a paper: a run's methods by metrics, and methods by several runs. They need the package booktabs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.comparisons import LEVEL
from ..analysis.elsewhere import marked
from ..analysis.grids import SFT
from ..analysis.metric_names import FAMILIES, evaluator
from ..analysis.quantities import measured
from ..analysis.subject import prompts, subject
from ..analysis.verdict import leading
from .across import across, run_id, shown_best
from .leaderboard import cell
from .reading import Material
from .wording import is_headline, ordered

PAGE, LETTER, COLUMN = 345.0, 4.3, 51.0  # points: the width of `article`, of a small letter, of "$-0.51 \\pm 1.60$"
SHARED = ("win_rate", "reward", "kl", "length")  # families in their order
SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "\N{NO-BREAK SPACE}": "~",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip
HEAD = "% Made by alignment-bench. In the preamble: \\usepackage{booktabs}\n"


def escaped(text: Any) -> str:
    """Text that LaTeX sets as it stands, on one line; what pdfTeX has no letter for becomes a question mark."""
    plain = " ".join(str(text).split())
    return "".join(SPECIAL.get(c) or (c if c.isascii() and c.isprintable() else _letter(c)) for c in plain)


def _letter(found: str) -> str:
    """A letter of western languages as it is, in UTF-8; else a question mark."""
    return found if found.isalpha() and ord(found) < 0x180 else "?"


def table(material: Material) -> str:
    """One table of a run: a row a method, win rates, the mean reward, KL, length and time; "" where nothing is scored.

    ±: half of the 95% interval's width. Bold: a win rate of which it is shown that it is above SFT and every other row.
    """
    summary, methods = material.summary, material.methods
    if not methods:
        return ""
    metrics, timed = _columns(methods)
    best = shown_best(summary)
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for metric in metrics:
        family, _, tail = metric.partition(".")
        head = {"win_rate": "Win rate (\\%)", "reward": "Mean reward", "kl": "KL", "length": "Length"}[family]
        if not groups or groups[-1][0] != head:
            groups.append((head, []))
        groups[-1][1].append((metric, evaluator(tail) if tail else {"kl": "nats", "length": "tokens"}[family]))
    if timed:
        groups.append(("Time", [("seconds", "one seed")]))
    rows = []
    for name, row in methods.items():
        cells = [_cell(row["metrics"].get(m), m, name == best and m == leading(summary)) for m in metrics]
        time = escaped(cell(summary, name, "cost.seconds").text)
        rows.append([escaped(marked(name, methods)), *cells, *([time] if timed else [])])
    said = [
        f"{escaped(subject(summary))}; {escaped(_seeds(methods))}.",
        "Means with half of the 95\\% interval's width; win rates are against SFT, ties half.",
        _bold_said(summary, best),
        f"Benchmark {escaped(summary.get('benchmark', '?'))}, run {escaped(run_id(material))}.",
    ]
    return HEAD + _table(groups, rows, " ".join(said), f"{summary.get('benchmark', 'run')}-{run_id(material)}")


def table_of_runs(materials: Sequence[Material]) -> str:
    """One table of several runs: a row a run, a column a method; "" where no run is summarized."""
    found = across(materials)
    if not found.rows:
        return ""
    is_turned = len(found.rows) > _room(found.heads)  # more methods than fit: they become the rows, runs are numbered
    if is_turned:
        heads = [(head, f"({n})") for n, head in enumerate(found.heads, start=1)]
        lines = [[escaped(name), *map(_rate, cells)] for name, cells in found.rows]
    else:
        heads = [(name, name) for name, _ in found.rows]
        lines = [[escaped(head), *(_rate(cells[n]) for _, cells in found.rows)] for n, head in enumerate(found.heads)]
    told = []
    for n, (head, run) in enumerate(zip(found.heads, found.runs, strict=True), start=1):
        scorer = evaluator((leading(run.summary) or ".").partition(".")[2])
        said = [f"by the {scorer}", f"$n = {prompts(run.summary)}$", _seeds(run.methods)]
        said += [] if head.endswith(run_id(run)) else [f"run {escaped(run_id(run))}"]
        told.append(f"{f'({n}) ' if is_turned else ''}{escaped(head)}: {', '.join(said)}")
    caption = (
        f"Win rates with half of the 95\\% interval's width. {'; '.join(told)}. They are against each run's own SFT, "
        f"and nothing was tested between runs. Bold: shown, in its run, to be above SFT and every other method "
        f"(adjusted $p < {LEVEL:g}$)."
    )
    label = f"runs-{'-'.join(run_id(run)[:6] for run in found.runs)}"
    groups = [("Win rate (\\%)", heads)]
    return HEAD + _table(groups, lines, caption, label, "Method" if is_turned else "Run")


def _rate(found: Mapping[str, Any]) -> str:
    return _cell(found, "win_rate", found.get("best", False))


def _bold_said(summary: Mapping[str, Any], best: str | None) -> str:
    if best is None:
        return "No row is in bold, for none is shown to be better than SFT and every other."
    one = " policy, trained once," if (summary["methods"][best].get("seeds") or 0) < 2 else ""
    return f"Bold: this row{one} is shown to be better than SFT and every other (adjusted $p < {LEVEL:g}$)."


def _columns(methods: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The metrics that fit beside the rows' names, and whether the time does: what is asked first finds room first."""
    known = ordered({m for row in methods.values() for m, c in row["metrics"].items() if measured(c.get("mean"))})
    known = [m for m in known if is_headline(m) and m.count(".") < 2 and m.partition(".")[0] in SHARED]
    rates, rewards = ([m for m in known if m.startswith(f"{family}.")] for family in ("win_rate", "reward"))
    time = ["seconds"] if any((row.get("cost") or {}).get("seconds") for row in methods.values()) else []
    others = [m for m in known if m not in rates and m not in rewards]
    asked = [*rates[:1], *others[:1], *time, *rates[1:2], *rewards[:1], *others[1:], *rates[2:]]
    kept = asked[: _room([marked(name, methods) for name in methods])]
    return [m for m in known if m in kept], time != [] and time[0] in kept


def _room(names: Sequence[str]) -> int:
    """The columns of numbers that fit beside names into a page's width; two at least."""
    return max(2, int((PAGE - LETTER * max(map(len, [*names, "Method"]))) // COLUMN))


def _cell(found: Mapping[str, Any] | None, metric: str, bold: bool = False) -> str:
    """A mean with half of its interval's width, of shares in percent; a dash where nothing was measured."""
    if not found or not measured(found.get("mean")):
        return "--"
    share = FAMILIES[metric.partition(".")[0]][1] == "share"
    scale, digits = (100, 1) if share else (1, 1 if metric == "length" else 2)
    text = f"{scale * found['mean']:.{digits}f}"
    if measured(found.get("low")) and measured(found.get("high")) and found["low"] != found["high"]:
        text += f" \\pm {scale * (found['high'] - found['low']) / 2:.{digits}f}"
    return f"$\\mathbf{{{text}}}$" if bold else f"${text}$"


def _seeds(methods: Mapping[str, Any]) -> str:
    counts = sorted({row.get("seeds") or 0 for name, row in methods.items() if name != SFT} - {0})
    if not counts:
        return "no seeds"
    span = f"{counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    return f"{span} seed{'s' * (span != '1')}"


def _table(
    groups: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    rows: Sequence[Sequence[str]],
    caption: str,
    label: str,
    first: str = "Method",
) -> str:
    """A table in LaTeX: groups of columns with heads of their own, set small enough for a column of text.

    groups: head in LaTeX, then of each column a key and the head as plain text.
    """
    columns = [head for _, found in groups for _, head in found]
    over = " & ".join(["", *(f"\\multicolumn{{{len(found)}}}{{c}}{{{head}}}" for head, found in groups)])
    rules, start = [], 2
    for _, found in groups:
        rules.append(f"\\cmidrule(lr){{{start}-{start + len(found) - 1}}}")
        start += len(found)
    lines = [
        "\\begin{table}[t]", "\\centering", f"\\caption{{{caption}}}",
        f"\\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', label)}}}", "\\smallskip", "\\footnotesize",
        "\\setlength{\\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{@{{}}l{'r' * len(columns)}@{{}}}}", "\\toprule", f"{over} \\\\", " ".join(rules),
        f"{first} & {' & '.join(escaped(head) for head in columns)} \\\\", "\\midrule",
        *(f"{' & '.join(row)} \\\\" for row in rows), "\\bottomrule", "\\end{tabular}", "\\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
