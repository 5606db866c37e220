"""A plugin's code changes nothing that other rows compute with: it is refused, or put back."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
import torch
import torch.nn.functional as F
import transformers

from alignment_bench.benchmarks.definition import plugins
from alignment_bench.benchmarks.definition.intact import _precision, put_back
from alignment_bench.benchmarks.definition.plugins import build, check_methods, doubled, load
from alignment_bench.benchmarks.stages.scores import _scores
from alignment_bench.errors import InputError
from alignment_bench.methods import losses
from alignment_bench.results.records import Score


@pytest.fixture
def register(tmp_path, monkeypatch):
    """A method `theirs` of a module with the text that is given."""

    def write(text):
        name = f"theirs_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(text)
        made = [EntryPoint("theirs", f"{name}:Theirs", "alignment_bench.methods")]
        monkeypatch.setattr(plugins, "entry_points", lambda group: made if group.endswith(".methods") else [])
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for name in [name for name in sys.modules if name.startswith("theirs_")]:
        del sys.modules[name]


CLASS = "\nclass Theirs:\n    def train(self, task):\n        pass\n"


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("import torch\ntorch.set_default_dtype(torch.float64)", "torch's default dtype"),
        ("import torch\ntorch.set_grad_enabled(False)", "whether torch has gradients"),
        ("import torch\ntorch.nn.functional.logsigmoid = lambda x: x", "torch.nn.functional.logsigmoid"),
        ("import torch\ntorch.nn.Linear.forward = lambda self, x: x", "torch.nn.modules.linear.Linear.forward"),
        ("import torch\ntorch.optim.AdamW.step = lambda self: None", "torch.optim.adamw.AdamW.step"),  # Adam's
        ("import torch\ntorch.set_autocast_enabled('cpu', True)", "torch's autocast on cpu"),
        ("import torch\ntorch.backends.mkldnn.set_flags(False)", "torch's use of mkldnn"),
        ("import torch\ntorch.backends.mkldnn.matmul.fp32_precision = 'bf16'", "torch's precision of matrix products"),
        ("import torch\ntorch.set_float32_matmul_precision('medium')", "torch's precision of matrix products"),
        ("import torch\ntorch.backends.cuda.enable_flash_sdp(False)", "torch's use of flash attention"),
        (
            "import torch\ntorch.nn.functional.relu.__code__ = (lambda input: input).__code__",
            "torch.nn.functional.relu",
        ),
        (
            "from alignment_bench.methods import losses\nlosses.dpo.__code__ = (lambda *a, **k: 0).__code__",
            "alignment_bench.methods.losses.dpo",
        ),
        (
            "import torch\ntorch.nn.Linear.forward.__defaults__ = (None,)",
            "torch.nn.modules.linear.Linear.forward",
        ),
        (
            "from alignment_bench.methods import losses\nlosses.dpo = lambda *a, **k: 0",
            "alignment_bench.methods.losses.dpo",
        ),
    ],
)
def test_a_plugin_that_changes_what_rows_share_is_refused(register, lines, named):
    step = vars(torch.optim.AdamW).get("step")  # its own once an optimizer was made, for torch wraps it then
    before = (F.logsigmoid, torch.nn.Linear.forward, losses.dpo, torch.get_default_dtype())
    bodies = (losses.dpo.__code__, torch.nn.Linear.forward.__defaults__, torch._C._get_mkldnn_enabled(), _precision())
    register(lines + CLASS)
    for _ in range(2 if "dtype" in lines else 1):  # each time, though Python would not import it a second time
        with pytest.raises(InputError, match=f"method 'theirs' .* changes {named}, on which the numbers of every row"):
            load("methods", "theirs")
    assert before == (F.logsigmoid, torch.nn.Linear.forward, losses.dpo, torch.get_default_dtype())
    assert bodies == (
        losses.dpo.__code__,
        torch.nn.Linear.forward.__defaults__,
        torch._C._get_mkldnn_enabled(),
        _precision(),
    )
    assert (
        torch.is_grad_enabled() and vars(torch.optim.AdamW).get("step") is step and not torch.is_autocast_enabled("cpu")
    )


def test_a_class_in_place_of_one_that_transformers_has_not_yet_imported_is_refused(register, monkeypatch):
    monkeypatch.delitem(vars(transformers), "LlamaForCausalLM", raising=False)
    register("import transformers\nclass Mine:\n    pass\ntransformers.LlamaForCausalLM = Mine" + CLASS)
    with pytest.raises(InputError, match="changes transformers.LlamaForCausalLM, on which"):
        load("methods", "theirs")
    assert transformers.LlamaForCausalLM.__module__.startswith("transformers.")


def test_a_patch_of_what_the_plugin_is_the_first_to_import_is_refused(register, monkeypatch):
    monkeypatch.delitem(sys.modules, "alignment_bench.methods.wpo", raising=False)
    monkeypatch.delattr("alignment_bench.methods.wpo", raising=False)
    register("from alignment_bench.methods import wpo\ndef weights(*a):\n    return 1\nwpo.weights = weights" + CLASS)
    with pytest.raises(InputError, match="alignment_bench.methods.wpo.weights"):
        load("methods", "theirs")
    monkeypatch.delitem(sys.modules, "alignment_bench.methods.wpo", raising=False)


def test_a_plugin_that_changes_torch_when_it_is_made_is_refused(register):
    init = (
        "\n    def __init__(self):\n        import torch\n        torch.set_num_threads(torch.get_num_threads() + 1)\n"
    )
    register(CLASS + init)
    threads = torch.get_num_threads()
    with pytest.raises(InputError, match="torch's number of threads"):
        build("methods", "theirs", {}, "here")
    assert torch.get_num_threads() == threads


def test_a_plugin_that_adds_to_modules_and_imports_libraries_is_taken(register):
    register("import torch\nimport trl.trainer\nimport colorsys\ntorch.theirs = lambda x: x\n" + CLASS)
    try:
        assert load("methods", "theirs").__name__ == "Theirs"
    finally:
        torch.__dict__.pop("theirs", None)


@dataclass(frozen=True)
class Careless:
    """An evaluator that leaves torch as it needs it."""

    def score(self, responses, baseline):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        F.logsigmoid = torch.neg
        torch.optim.AdamW.step = torch.optim.SGD.step
        yield Score("x", "p", 1.0)


def test_what_an_evaluator_changes_of_torch_is_put_back():
    before, step = F.logsigmoid, torch.optim.AdamW.step
    assert _scores(Careless(), [], []) == [Score("x", "p", 1.0)]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32 and F.logsigmoid is before
    assert torch.optim.AdamW.step is step


def test_what_fails_is_put_back_too():
    with pytest.raises(ZeroDivisionError), put_back():
        torch.set_grad_enabled(False)
        raise ZeroDivisionError
    assert torch.is_grad_enabled()


class Package:
    """Of a distribution, its name."""

    def __init__(self, name):
        self.name = name


def test_a_name_that_two_packages_register_is_told(monkeypatch):
    made = []
    for package in ("one", "two", "one"):
        entry = EntryPoint("twice" if len(made) < 2 else "once", "m:C", "alignment_bench.methods")
        vars(entry).update(dist=Package(package))
        made.append(entry)
    monkeypatch.setattr(plugins, "entry_points", lambda group: made)
    assert doubled("methods") == {"twice": "one and two"}
    for ask in (lambda: load("methods", "twice"), lambda: check_methods(["twice:beta=1"])):
        with pytest.raises(InputError, match="'twice' is registered by one and two; uninstall all but one"):
            ask()
