"""The look of every figure: one style per method, a canvas about as wide as a phone, and SVG that suits the page.

Every chart is a drawing of its own, so that the page can lay several side by side on a desk and one under the other on
a phone with the letters still readable. In the page, text and grid take the page's colours (CSS variables), so the same
drawing serves light, dark and print; as a file a chart has its title, a legend and the colours of print.
"""

import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.quantities import measured
from ..results.integrity import digest, replacing

# Okabe and Ito (2008), "Color Universal Design"; yellow last, for it is faint on white. SFT is always grey.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
SFT_COLOUR = "#7f8790"
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼"}  # matplotlib's marker: the same shape as a character
INK, RULE = "#1c2126", "#dde2e7"  # of text and grid in files; the page puts its own colours in their place
WIDTH = 5.2  # inches at 72 units an inch: 374 units, so about one CSS pixel a unit on a phone
COLUMN, SMALLER = 3.3, 0.68  # inches of a column of a paper, and how much smaller its letters are, 7.5 points
SIZE = 11  # of letters, in the same units
DASHED = (0, (4, 3))
LONGEST = 60  # characters of a file's name; longer ones are cut and told apart by a hash
PLACES = re.compile(
    r'\b(?:d|x|y|width|height|transform)="[^"]*"'
)  # attributes with places, two digits of which will do


@dataclass(frozen=True)
class Style:
    """A method's look in every figure: colour, matplotlib marker and the marker as a character."""

    colour: str
    marker: str
    glyph: str


@dataclass(frozen=True)
class Chart:
    """One drawing: `svg` is finished markup for the page, `text` says in words what it shows."""

    key: str
    """Name of its file."""
    title: str
    svg: str
    text: str
    drawing: Any
    """The matplotlib figure, for files."""


@dataclass(frozen=True)
class Figure:
    """Charts that belong together, with what a reader must know to read them."""

    title: str
    caption: str
    charts: Sequence[Chart]


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """One fixed look per method by its place in the run; `sft` is grey and takes no place."""
    marks = list(MARKERS.items())
    found = {"sft": Style(SFT_COLOUR, *marks[0])}
    for place, name in enumerate(dict.fromkeys(m for m in methods if m != "sft")):
        # Markers advance by one more on each round of the colours: 35 methods before a pair comes twice.
        mark = marks[(place + place // len(OKABE_ITO)) % len(marks)]
        found[name] = Style(OKABE_ITO[place % len(OKABE_ITO)], *mark)
    return found


def new_canvas(height: float) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, `height` in inches."""
    from matplotlib.figure import Figure as Drawing
    from matplotlib.layout_engine import TightLayoutEngine

    drawing = Drawing(figsize=(WIDTH, height), layout=TightLayoutEngine(pad=0.4))
    axes = drawing.subplots()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=SIZE, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=INK, size=SIZE)
    return drawing, axes


def rows_canvas(names: Sequence[str]) -> tuple[Any, Any]:
    """A canvas with a row a name, from the top."""
    drawing, axes = new_canvas(0.62 + 0.36 * len(names))
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return drawing, axes


def finish_chart(drawing: Any, key: str, title: str, text: str) -> Chart:
    """Write a drawing as SVG markup that can stand in an HTML page beside others: own ids, no prolog, page colours."""
    import matplotlib

    name = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
    key = name if len(name) <= LONGEST else f"{name[:LONGEST]}-{digest(key)[:8]}"
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    view = re.findall(r'viewBox="([-0-9. ]+)"', svg)[0]
    opening = f'<svg viewBox="{view}" role="img" aria-label="{html.escape(text)}">'
    svg = re.sub(r"^<svg[^>]*>", lambda _: opening, svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg).replace("xlink:href", "href")
    svg = PLACES.sub(lambda attribute: re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]), svg)
    svg = svg.replace(INK, "var(--ink)").replace(RULE, "var(--rule)")
    return Chart(key, title, re.sub(r"\s*\n\s*", "\n", svg), text, drawing)


def save(chart: Chart, path: Path) -> None:
    """Write a chart as a file of its own, SVG or PDF by the ending: with title, legend and a white ground.

    A PDF is for a paper: as wide as a column of text, its fonts embedded (type 42).
    """
    import matplotlib

    axes = chart.drawing.axes[0]
    if not axes.get_title("left"):
        axes.set_title(literal(chart.title), loc="left", size=SIZE + 1, color=INK)
        handles, labels = axes.get_legend_handles_labels()
        if handles and axes.get_legend() is None:
            axes.legend(handles, labels, frameon=False, labelcolor=INK, fontsize=SIZE - 1)
        chart.drawing.draw_without_rendering()
        chart.drawing.set_layout_engine("none")  # the second file keeps the places that were found for the first
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": chart.key, "pdf.fonttype": 42}
    made = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    narrow = at_column_width(chart.drawing) if path.suffix == ".pdf" else nullcontext()
    with matplotlib.rc_context(settings), narrow, replacing(path) as stream:
        chart.drawing.savefig(stream, format=path.suffix[1:], metadata=made)


@contextmanager
def at_column_width(drawing: Any) -> Iterator[None]:
    """A drawing as narrow as a column of a paper, letters and marks smaller with it; as it was again afterwards."""
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    width, height = drawing.get_size_inches()
    letters = [(text, text.get_fontsize()) for text in drawing.findobj(Text)]
    lines = [(line, line.get_linewidth(), line.get_markersize()) for line in drawing.findobj(Line2D)]
    try:
        drawing.set_size_inches(COLUMN, height * COLUMN / width)
        for text, size in letters:
            text.set_fontsize(size * SMALLER)
        for line, thick, mark in lines:
            line.set_linewidth(thick * SMALLER)
            line.set_markersize(mark * SMALLER)
        drawing.tight_layout(pad=0.4 * SMALLER)
        yield
    finally:
        drawing.set_size_inches(width, height)
        for text, size in letters:
            text.set_fontsize(size)
        for line, thick, mark in lines:
            line.set_linewidth(thick)
            line.set_markersize(mark)
        drawing.tight_layout(pad=0.4)


def label_points(axes: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """Write each method's name beside its point and within the axes, moved down where two names would meet."""
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    taken: list[tuple[float, float]] = []
    for name, x, y in sorted(points, key=lambda p: -p[2]):
        px, py = axes.transData.transform((x, y)) * scale
        end = axes.bbox.x1 * scale
        reach, beside = 9 + 6 * len(name), [axes.transData.transform(p[1:])[0] * scale - px for p in points]
        left = px + reach > end + 6 or (
            any(0 < other < reach for other in beside) and not any(-reach < other < 0 for other in beside)
        )
        left = left and px - reach > axes.bbox.x0 * scale  # the axis' own numbers stand there
        place = py + 8
        while any(abs(place - other) < 12 and abs(px - where) < 70 for where, other in taken):
            place -= 3
        taken.append((px, place))
        axes.annotate(
            literal(name), (x, y), xytext=(-8 if left else 8, place - py), textcoords="offset points",
            ha="right" if left else "left", va="center", color=INK, size=SIZE,
        )  # fmt: skip


def literal(text: str) -> str:
    """Text that matplotlib does not take for mathematics, whatever dollar signs it has."""
    return text.replace("$", r"\$")


def limits(cell: Mapping[str, Any]) -> tuple[float, float]:
    """Ends of the interval, both the mean itself where there is none."""
    return tuple(cell[end] if measured(cell.get(end)) else cell["mean"] for end in ("low", "high"))
