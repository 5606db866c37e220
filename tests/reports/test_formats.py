"""Every format but the page: tables that read back, LaTeX that compiles, figures as files, and runs that differ."""

import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pandas
import pytest

from alignment_bench.errors import InputError
from alignment_bench.reports import curves, drawing, page
from alignment_bench.reports.across import shown_best
from alignment_bench.reports.contracts import MEANING, differences
from alignment_bench.reports.curves import KL_ESTIMATE
from alignment_bench.reports.latex import escaped, table, table_of_runs
from alignment_bench.reports.reading import Material, _named_as_now
from alignment_bench.reports.render import FORMATS, render
from alignment_bench.reports.tables import frames, neutral, write
from alignment_bench.results.integrity import write_record
from alignment_bench.results.run_folder import Run


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """All formats without drawings; those have a test of their own, for each takes long to write."""
    out = tmp_path_factory.mktemp("formats")
    paths = render([run], out, [name for name in FORMATS if name not in ("html", "svg", "pdf")])
    assert len(set(paths)) == len(paths) and all(path.is_file() for path in paths)
    assert not list(out.rglob("*.partial"))
    return out


def test_tables_read_back_with_the_numbers_of_the_summary(written, run):
    for read, ending in ((pandas.read_csv, "csv"), (pandas.read_parquet, "parquet")):
        results = read(written / "tables" / f"results.{ending}").set_index(["method", "metric"])
        for method, row in run.summary["methods"].items():
            for metric, cell in row["metrics"].items():
                assert tuple(results.loc[(method, metric), ["mean", "low", "high"]]) == pytest.approx(
                    (cell["mean"], cell["low"], cell["high"])
                )
        pairs = read(written / "tables" / f"comparisons.{ending}")
        adjusted = [row["p_adjusted"] for row in run.summary["comparisons"]]
        assert list(pairs["p_adjusted"].dropna()) == [p for p in adjusted if p is not None]
        costs = read(written / "tables" / f"costs.{ending}").set_index(["method", "cost"])
        assert costs.loc[("ppo", "flops"), "mean"] == 3.21e13
    assert json.loads((written / "report.json").read_text()) == {"run": run.record, "summary": run.summary}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("+1", "'+1"), ("-2+3", "'-2+3"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"), ("\r=1", "'\r=1"), ("dpo", "dpo"), ("a=b", "a=b"), ("", ""), (-0.3, -0.3), (None, None),
    ],
)  # fmt: skip
def test_cells_that_look_like_formulas_are_neutralised(cell, expected):
    assert neutral(cell) == expected


def material(name, **metrics):
    methods = {
        "sft": {"seeds": 1, "metrics": {}, "cost": {}},
        name: {"seeds": 1, "metrics": metrics, "cost": {"seconds": 12.0}},
    }
    return Material({"run_id": "x"}, {"methods": methods, "comparisons": []}, [])


def test_a_csv_keeps_negative_numbers_and_tames_names(tmp_path):
    made = material("=cmd|' /C calc'!A0", **{"reward.gold": {"mean": -0.3, "low": -0.5, "high": -0.1, "n": 5}})
    write(frames(made), tmp_path, "csv")
    text = (tmp_path / "results.csv").read_text()
    assert "'=cmd|" in text and ",-0.3,-0.5,-0.1," in text
    assert pandas.read_csv(tmp_path / "results.csv")["mean"].tolist() == [-0.3]
    assert not re.search(r"(?m)(^|,)=", text)


HOSTILE = r"50%_$\alpha$ & {x} #1 ~^ \input{/etc/passwd} <b>"


def test_latex_sets_any_text_as_it_stands():
    assert escaped(HOSTILE) == (
        r"50\%\_\$\textbackslash{}alpha\$ \& \{x\} \#1 \textasciitilde{}\textasciicircum{} "
        r"\textbackslash{}input\{/etc/passwd\} \textless{}b\textgreater{}"
    )
    assert escaped("Grüße\n − 模") == "Grüße $-$ ?"
    text = table(material(HOSTILE, **{"win_rate.gold": {"mean": 0.6, "low": 0.48, "high": 0.7, "n": 9}}))
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    assert f"{escaped(HOSTILE)} & $60.0 \\pm 11.0$ & 12 s \\\\" in text and "sft & -- & -- \\\\" in text


def test_a_paper_has_one_table_with_what_it_must_say(run):
    """±: half of the interval, of 0.071 either way here. None of ppo and dpo is shown to be better than the other."""
    text = table(Material(run.record, run.summary, []))
    assert text.count(r"\begin{table}") == 1 and r"\label{tab:quick-20260301-2c9d41}" in text
    assert "SmolLM2-135M-Instruct on tomatoes: 120 optimizer steps, 60 prompts; 3 seeds." in text
    assert "Benchmark quick, run 20260301-2c9d41." in text and "No row is in bold" in text and "mathbf" not in text
    row = r"ppo & $71.0 \pm 6.1$ & $78.0 \pm 5.2$ & $0.84 \pm 0.13$ & $6.30 \pm 0.31$ & $44.5 \pm 1.6$ & 2 min 14 s \\"
    assert row in text
    assert r"\multicolumn{2}{c}{Win rate (\%)}" in text and r"\cmidrule(lr){2-3}" in text


def test_the_best_is_in_bold_only_where_it_is_shown(run):
    found = run.summary
    for row in found["comparisons"]:
        if row["metric"] == "win_rate.gold" and "ppo" in (row["a"], row["b"]):
            row |= {"p_adjusted": 0.001, "verdict": f"{row['a']} is better"}
    assert shown_best(found) == "ppo"
    text = table(Material(run.record, found, []))
    assert r"ppo & $\mathbf{71.0 \pm 6.1}$ & $78.0 \pm 5.2$" in text and text.count("mathbf") == 1
    (against_dpo,) = (
        r for r in found["comparisons"] if (r["metric"], r["a"], r["b"]) == ("win_rate.gold", "ppo", "dpo")
    )
    assert shown_best(found | {"comparisons": [r for r in found["comparisons"] if r is not against_dpo]}) is None
    against_dpo |= {"p_adjusted": 0.06, "verdict": "not decided"}
    assert shown_best(found) is None and shown_best({"methods": {}, "comparisons": []}) is None


def several(run):
    """A run, one on another model with a method less, and one more like the first."""
    other = run.summary | {"contract": {"model": "Qwen/Qwen2.5-0.5B"}}
    other["methods"] = {name: row for name, row in other["methods"].items() if name != "orpo"}
    other["comparisons"] = [row for row in other["comparisons"] if "orpo" not in (row["a"], row["b"])]
    return [Material({"run_id": "one"}, run.summary, []), Material({"run_id": "two"}, other, []), Material({}, {}, [])]


def test_several_runs_have_one_table(run):
    first, second, unfinished = several(run)
    text = table_of_runs([first, second, unfinished])
    assert r"Run & ppo & dpo & orpo \\" in text and text.count(r"\begin{table}") == 1
    assert r"SmolLM2-135M-Instruct & $71.0 \pm 6.1$ & $64.0 \pm 6.1$ & $58.0 \pm 6.1$ \\" in text
    assert r"Qwen2.5-0.5B & $71.0 \pm 6.1$ & $64.0 \pm 6.1$ & -- \\" in text  # what is the same is not in the names
    assert (
        "Qwen2.5-0.5B: by the true reward, $n = 60$, 3 seeds, run two" in text
        and "nothing was tested between runs" in text
    )
    assert "SmolLM2-135M-Instruct one &" in table_of_runs([first, first, second])
    assert table_of_runs([unfinished]) == ""
    many = {f"method-{n}": run.summary["methods"]["ppo"] for n in range(9)}
    wide = table_of_runs(
        [first, Material({"run_id": "two"}, second.summary | {"methods": many, "comparisons": []}, [])]
    )
    assert r"Method & (1) & (2) \\" in wide and r"method-8 & -- & $71.0 \pm 6.1$ \\" in wide


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex on this machine")
def test_latex_compiles_and_fits_the_page(written, run, tmp_path):
    wide = {"mean": 0.614, "low": 0.503, "high": 0.712, "n": 9}
    metrics = ("win_rate.gold", "win_rate.judge", "win_rate.reward_model", "reward.gold", "kl", "length")
    hostile = table(material(HOSTILE, **dict.fromkeys(metrics, wide)))
    body = (written / "tables.tex").read_text() + hostile + table_of_runs(several(run))
    source = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\n\\end{document}\n"
    (tmp_path / "paper.tex").write_text(source, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-800:]
    assert (tmp_path / "paper.pdf").stat().st_size > 0 and b"Overfull" not in done.stdout


def test_every_drawing_of_the_page_is_a_file(run, tmp_path):
    bare = Run(tmp_path / "bare")  # without cells there are no training curves, which saves time
    write_record(bare.path / "run.json", run.record)
    bare.write_summary({**run.summary, "equal_length": {}, "reward_models": {}})
    page, *figures = render([bare], tmp_path / "out", ("html", "svg", "pdf"))
    drawn = page.read_text(encoding="utf-8").count("<svg")
    assert len(figures) == 2 * drawn == 2 * 11  # 3 win rates, 3 costs, 2 frontiers, gold-proxy, length, judge
    for path in figures[:drawn]:
        assert "var(--" not in path.read_text(encoding="utf-8")
        ElementTree.parse(path)
    for path in figures[drawn:]:  # as wide as a column, 3.3 inches of 72 points, and with its fonts
        made = path.read_bytes()
        assert made.startswith(b"%PDF") and b"/MediaBox [ 0 0 237.6 " in made and b"/FontFile2" in made
    assert "Win rate against SFT (true reward)" in (tmp_path / "out/figures/win-rate-gold.svg").read_text("utf-8")


def test_a_file_has_its_own_title_and_legend(tmp_path):
    logs = {m: [[{"examples": n, "kl": n / size} for n in range(9)]] for m, size in (("$dpo$", 2), ("ppo", 1))}
    (chart,) = curves.training(logs, drawing.styles(logs)).charts
    assert ">ppo<" not in chart.svg and "KL to SFT, exact" not in chart.svg.partition(">")[2]
    drawing.save(chart, tmp_path / "kl.svg")
    text = (tmp_path / "kl.svg").read_text(encoding="utf-8")
    assert ">ppo<" in text and ">$dpo$<" in text and "KL to SFT, exact" in text


def test_quantities_that_do_not_compare_have_an_axis_each():
    """An estimate of the KL is apart from the exact one, margins by log-probs alone from those against SFT."""
    logs = {
        "dpo": [[{"examples": 8, "kl": 1.0, "margin": 0.5, "accuracy": 0.6, "implicit_margin": 0.4}]],
        "simpo": [[{"examples": 8, "kl": 2.0, "logp_margin": -9.0, "logp_accuracy": 0.4, "implicit_margin": 0.2}]],
        "ppo": [[{"examples": 8, KL_ESTIMATE: -0.7, "reward": 1.0, "implicit_margin": 0.1}]],
    }
    looks = drawing.styles(logs)

    def methods(figure):
        return {chart.key: re.findall(r"(dpo|simpo|ppo) from", chart.text) for chart in figure.charts}

    assert methods(curves.training(logs, looks)) == {
        "curve-implicit-margin": ["dpo", "simpo", "ppo"],
        "curve-reward": ["ppo"],
        "curve-kl": ["dpo", "simpo"],
        "curve-kl-estimate": ["ppo"],
    }
    assert methods(curves.further(logs, looks)) == {
        "curve-accuracy": ["dpo"],
        "curve-margin": ["dpo"],
        "curve-logp-accuracy": ["simpo"],
        "curve-logp-margin": ["simpo"],
    }


def test_the_log_of_an_older_version_is_read_by_the_names_of_today():
    assert _named_as_now({"step": 1, "reward": 2.0, "kl": -0.1}) == {"step": 1, "reward": 2.0, KL_ESTIMATE: -0.1}
    for row in ({"kl": 0.1, "implicit_margin": 1.0}, {"reward": 2.0, "kl": 0.1, KL_ESTIMATE: -0.1}):
        assert _named_as_now(row) == row  # exact


def test_names_of_files_are_short_and_differ():
    keys = [f"judge-{'a very long name / ' * 9}{n}" for n in (1, 2)]
    names = [drawing.finish_chart(drawing.new_canvas(1)[0], key, "t", "t").key for key in keys]
    assert names[0] != names[1] and all(re.fullmatch(r"[a-z0-9-]{1,80}", name) for name in names)


def test_an_unknown_format_is_told_with_the_nearest(run, tmp_path):
    with pytest.raises(InputError, match="--format latx is not known; did you mean 'latex'"):
        render([run], tmp_path, ("latx",))
    assert list(tmp_path.iterdir()) == []


def contract(**changed):
    return {"contract": {"model": "m", "base": "aa", "budget": 100, "sft": {"lr": 0.1, "content": "x"}} | changed}


def test_what_differs_is_said_in_words_and_fields():
    found = differences([contract(), contract(budget=200, sft={"lr": 0.1, "content": "y"}), contract()])
    assert found.contracts == 2
    assert found.sentences == [MEANING["sft"], MEANING["budget"]]
    assert found.fields == [("budget", ["100", "200", "100"]), ("sft.content", ["x", "y", "x"])]
    same = differences([contract(), contract()])
    assert (same.contracts, same.sentences, same.fields) == (1, [], [])
    assert differences([contract(), contract(novel=1)]).sentences == ["novel differs"]
    assert differences([contract(), contract(novel=1)]).fields == [("novel", ["–", "1"])]


def bare_runs(folder, *budgets):
    runs = [Run(folder / f"run-{place}") for place in range(len(budgets))]
    for run, budget, run_id in zip(runs, budgets, ("one", "../two", "one"), strict=False):
        write_record(run.path / "run.json", {"run_id": run_id, **contract(budget=budget)})
    return runs


def test_several_runs_have_an_overview_and_folders_of_their_own(tmp_path, parse):
    runs = bare_runs(tmp_path, 1, 2, 2)
    overview, markdown, *written = render(runs, tmp_path / "out")
    assert (overview, markdown) == (tmp_path / "out" / "index.html", tmp_path / "out" / "report.md")
    assert len({p.parent for p in written}) == 3 and len(written) == 6
    assert all(p.exists() and p.parent.parent == tmp_path / "out" for p in written)
    page = parse(overview.read_text(encoding="utf-8"))
    assert "Side by side" not in page.text  # none of them is summarized
    assert "2 different contracts" in page.text and "the budgets differ" in page.text
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert [(overview.parent / link).resolve() for link in links] == [p.resolve() for p in written[::2]]
    assert "| budget | 1 | 2 | 2 |" in markdown.read_text(encoding="utf-8")


def test_without_out_the_overview_lies_where_the_runs_lie(tmp_path, parse):
    runs = bare_runs(tmp_path / "quick", 1, 1)
    overview, *written = render(runs, formats=("html",))
    assert overview == tmp_path / "quick" / "report" / "index.html"
    assert written == [run.path / "report" / "index.html" for run in runs]
    text = parse(overview.read_text(encoding="utf-8")).text
    assert "the same contract" in text and "do not compare" not in text
    assert render(runs[:1], tmp_path / "single")[0] == tmp_path / "single" / "index.html"


def test_the_command_takes_formats_by_comma(bench, tmp_path):
    (run,) = bare_runs(tmp_path, 1)
    done = bench("report", run.path, "--out", tmp_path / "out", "--format", "md, json", cwd=tmp_path)
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in ("report.md", "report.json")]
    wrong = bench("report", run.path, "--format", "pfd", cwd=tmp_path, code=2)
    assert "did you mean 'pdf'" in wrong.stderr


def test_a_run_with_links_overwrites_nothing_elsewhere(make_run, tmp_path, monkeypatch):
    """Folders that are links are refused, files that are links replaced; a folder that the user names may be a link."""
    drawn, made = page.drawn, []  # once for all six reports, for drawing takes nearly all of the time
    monkeypatch.setattr(page, "drawn", lambda *given: made[0] if made else made.append(drawn(*given)) or made[0])
    run, outside = make_run(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    run.report_path.symlink_to(outside)
    with pytest.raises(InputError, match="report is a link"):
        render([run])
    run.report_path.unlink()
    for name in ("tables", "figures"):
        run.report_path.mkdir(exist_ok=True)
        (run.report_path / name).symlink_to(outside)
        with pytest.raises(InputError, match=f"{name} is a link"):
            render([run], formats=("csv", "svg"))
        (run.report_path / name).unlink()
    written = render([run], formats=FORMATS)
    for path in written:
        path.unlink()
        path.symlink_to(outside / "file")
        path.with_name(f".{path.name}.partial").symlink_to(outside / "file")
    assert render([run], formats=FORMATS) == written and not any(path.is_symlink() for path in written)
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"file": "theirs"}
    named = tmp_path / "named"
    named.symlink_to(outside)
    assert render([run], named) == [named / "index.html", named / "report.md"]
    with pytest.raises(InputError, match="file is a file, and a folder is to be written there"):
        render([run], outside / "file")
