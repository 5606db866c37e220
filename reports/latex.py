"""Tables for a paper: a run's methods by metrics, and methods by several runs. They need the package booktabs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.choice import better
from ..analysis.comparisons import LEVEL
from ..analysis.elsewhere import marked
from ..analysis.grids import SFT
from ..analysis.metric_names import FAMILIES, evaluator
from ..analysis.quantities import measured
from ..analysis.subject import prompts, short, subject, where
from ..analysis.verdict import headline, leading, tested
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
        head = {"win_rate": "Win rate against SFT (\\%)", "reward": "Mean reward", "kl": "KL", "length": "Length"}[
            family
        ]
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
    run_id = material.record.get("run_id", "run")
    said = [
        f"{escaped(subject(summary))}; {escaped(_seeds(methods))}.",
        "Means with half of the 95\\% interval's width; win rates count ties half.",
        _bold_said(summary, best),
        f"Benchmark {escaped(summary.get('benchmark', '?'))}, run {escaped(run_id)}.",
    ]
    return HEAD + _table(groups, rows, " ".join(said), f"{summary.get('benchmark', 'run')}-{run_id}")


def across(materials: Sequence[Material]) -> tuple[list[str], list[tuple[str, list[dict[str, Any]]]]]:
    """Methods by runs: the heads of the runs (what tells them apart), and each method's win rates against their SFT.

    A cell is a metric's of summary.json with `best`, whether it is shown to be above all others of its run, or empty.
    """
    known = [m for m in materials if m.summary]
    names = list(dict.fromkeys(name for m in known for name in m.methods if name != SFT))
    best = [(leading(m.summary), shown_best(m.summary)) for m in known]
    rows = []
    for name in names:
        cells = []
        for material, (metric, first) in zip(known, best, strict=True):
            found = material.methods.get(name, {"metrics": {}})["metrics"].get(metric) or {}
            cells.append({**found, "best": name == first} if measured(found.get("mean")) else {})
        rows.append((name, cells))
    return _heads(known), rows


def table_of_runs(materials: Sequence[Material]) -> str:
    """One table of several runs: a row a run, a column a method; "" where no run is summarized."""
    heads, rows = across(materials)
    if not rows:
        return ""
    known = [m for m in materials if m.summary]
    width = _room(heads)
    groups = [("Win rate against SFT (\\%)", [(name, name) for name, _ in rows])]
    lines = [
        [escaped(head), *(_cell(cells[n], "win_rate", cells[n].get("best", False)) for _, cells in rows)]
        for n, head in enumerate(heads)
    ]
    if len(rows) > width:  # more methods than fit: they become the rows, and runs are numbered
        groups = [("Win rate against SFT (\\%)", [(head, f"({n})") for n, head in enumerate(heads, start=1)])]
        lines = [[escaped(name), *(_cell(c, "win_rate", c.get("best", False)) for c in cells)] for name, cells in rows]
    told = [
        f"{f'({n}) ' if len(rows) > width else ''}{escaped(head)}: by the "
        f"{escaped(evaluator((leading(m.summary) or '.').partition('.')[2]))}, $n = {prompts(m.summary)}$, "
        f"{escaped(_seeds(m.methods))}{'' if head.endswith(_id(m)) else f', run{escaped(_id(m))}'}"
        for n, (head, m) in enumerate(zip(heads, known, strict=True), start=1)
    ]
    said = (
        f"Win rates with half of the 95\\% interval's width. {'; '.join(told)}. Each run has an SFT model of its own, "
        f"so that runs do not compare. Bold: shown, in its run, to be above SFT and every other method (adjusted "
        f"$p < {LEVEL:g}$)."
    )
    ids = "-".join(str(m.record.get("run_id", n))[:6] for n, m in enumerate(known))
    return HEAD + _table(groups, lines, said, f"runs-{ids}", "Run" if len(rows) <= width else "Method")


def shown_best(summary: Mapping[str, Any]) -> str | None:
    """The row that is shown to be better than SFT and than every other row by the scorer that stands first."""
    if not summary.get("comparisons") or not (metrics := headline(summary)):
        return None
    rows = tested(summary, metrics[0])
    names = {row["a"] for row in rows}
    for name in names:
        own = [row for row in rows if name in (row["a"], row["b"])]
        if len(own) == len(names) and all(better(row) == name for row in own):
            return str(name)
    return None


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


def _id(material: Material) -> str:
    return f" {material.record.get('run_id', 'without an id')}"


def _seeds(methods: Mapping[str, Any]) -> str:
    counts = sorted({row.get("seeds") or 0 for name, row in methods.items() if name != SFT} - {0})
    if not counts:
        return "no seeds"
    span = f"{counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    return f"{span} seed{'s' * (span != '1')}"


def _heads(materials: Sequence[Material]) -> list[str]:
    """What tells runs apart: their models, their data, or both; and their ids where neither does."""
    models = [
        short(str((m.summary.get("contract") or {}).get("model", "?")))
        if isinstance(m.summary.get("contract"), Mapping)
        else "?"
        for m in materials
    ]
    sources = [(m.summary.get("data") or {}).get("source") for m in materials]
    data = [
        short(str(source)) if source else str(m.summary.get("benchmark"))
        for source, m in zip(sources, materials, strict=True)
    ]
    heads = models if len(set(data)) == 1 else data if len(set(models)) == 1 else [where(m.summary) for m in materials]
    if len(set(heads)) < len(heads):
        heads = [f"{head}{_id(m)}" for head, m in zip(heads, materials, strict=True)]
    return heads


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
