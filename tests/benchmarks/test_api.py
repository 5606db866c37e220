"""The Python API: light to import, the same run as the command's, frames that hold what lies on disk."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from alignment_bench import load_run, plan, run
from alignment_bench.analysis.verdict import verdict
from alignment_bench.errors import InputError

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "compare_methods.ipynb"


def test_importing_the_package_takes_nothing_along():
    code = (
        "import sys, alignment_bench; assert set(alignment_bench.__all__) <= set(dir(alignment_bench));"
        "from alignment_bench import load_run, run;"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_frames_of_a_run(tmp_path, make_run):
    made = make_run(tmp_path)
    results = load_run(tmp_path)
    assert results.path == made.path and results.failures == {} and results.contract["budget"] == 16
    assert len(results.scores) == 3 * 2 * 3 * 16  # methods, seeds, metrics, prompts
    assert list(results.scores) == ["method", "seed", "metric", "prompt_id", "value"]
    length = results.scores.query("method == 'ppo' and metric == 'length'")["value"].mean()
    (row,) = results.table.query("method == 'ppo' and metric == 'length'").itertuples()
    assert row.mean == pytest.approx(length) and row.low < length < row.high and row.n == 32
    assert results.costs[["method", "seed", "seconds"]].values.tolist() == [
        ["ppo", 0, 2.0], ["ppo", 1, 3.0], ["dpo", 0, 2.0], ["dpo", 1, 3.0],
    ]  # fmt: skip
    log = results.metrics.query("method == 'dpo' and seed == 1")
    assert log["loss"].tolist() == [1.0, 1 / 2, 1 / 3, 1 / 4]
    said = results.generations.query("method == 'dpo' and seed == 0 and prompt_id == 'p03'")
    assert said["response"].tolist() == ["dpo says p03"] and said.iloc[0]["prompt"][0]["content"] == "Why p03?"
    assert set(results.comparisons["b"]) == {"sft", "dpo"}
    assert results.verdict == verdict(made.summary) and results.verdict[0] in repr(results)
    other = load_run(make_run(tmp_path / "other", budget=32, noise=1).path)
    frame = results.compare(other)
    assert isinstance(frame, pandas.DataFrame) and set(frame["prompts"]) == {16}
    written = [json.loads(path.read_text()) for path in results.export("alpaca_eval", tmp_path / "export")]
    assert any(row["output"] == "dpo says p03" for rows in written for row in rows)
    with pytest.raises(InputError, match="format csv is not known; give alpaca_eval or arena"):
        results.export("csv", tmp_path / "csv")
    assert not (tmp_path / "csv").exists()
    page = results.report(tmp_path / "page")[0]
    assert page == tmp_path / "page" / "index.html" and page.exists()


def test_bad_input_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        load_run(tmp_path)
    with pytest.raises(InputError, match="run has no option 'juge'; did you mean 'judge'"):
        run("quick", ["dpo"], juge=["x"], root=tmp_path)
    with pytest.raises(InputError, match=r"--set methods.dpo.betta=1.*did you mean 'beta'"):
        run("quick", "dpo", settings={"methods.dpo.betta": 1}, root=tmp_path)
    for call in (run, plan):
        with pytest.raises(InputError, match="gate fial is not known; give warn, fail or ignore"):
            call("quick", "dpo", gate="fial", root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_plan_is_a_frame(tmp_path):
    frame = plan("quick", ["dpo"], settings={"rows": 400}, root=tmp_path / "results")
    assert {"stage", "state", "basis", "seconds", "memory_mb", "tokens"} <= set(frame)
    assert set(frame["state"]) == {"to do", "asks for what is missing"} and frame["seconds"].max() > 0
    assert not (tmp_path / "results").exists()


def test_the_notebook_runs_as_it_is(tmp_path, monkeypatch):
    """Every cell, in order, in one namespace; what the command would find on disk is what the notebook made."""
    import matplotlib

    matplotlib.use("Agg")
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # none is kept, so none is out of date
    names = {}
    with contextlib.chdir(tmp_path):
        for cell in cells:
            exec(compile(cell, str(NOTEBOOK), "exec"), names)
    assert names["results"].failures == {}
    assert set(names["results"].table["method"]) == {"sft", "dpo", "orpo"}
    assert names["again"].path == names["results"].path != names["longer"].path
    assert len(list((tmp_path / "results" / "runs" / "quick").iterdir())) == 2
    axes = names["figure"].axes[0]
    assert [line.get_label() for line in axes.lines] == ["dpo, seed 0", "orpo, seed 0"]
