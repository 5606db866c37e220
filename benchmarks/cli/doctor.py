"""`bench doctor`: whether this machine is ready, and what is missing for what."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from .terminal import console, size, table

State = Literal["ok", "note", "broken"]
PACKAGE = "alignment-bench"
EXTRAS = {  # what each extra enables; which there are, the installed package says
    "lm-eval": "the evaluator lm_eval: the alignment tax",
    "trl": "the methods trl-*: TRL's own trainers beside ours",
    "qlora": "tuning.base_bits 4: LoRA on a base in 4 bits, by bitsandbytes",
    "vllm": "tuning.sampler vllm: responses drawn by vLLM",
    "ray": "--engine ray: cells side by side, on one machine or many",
    "deepspeed": "ZeRO under accelerate launch: Adam's moments and gradients divided over devices",
    "sentiment": "the benchmark sentiment: VADER, its true reward",
    "tensorboard": "--tracker tensorboard",
    "wandb": "--tracker wandb",
    "trackio": "--tracker trackio",
    "mlflow": "--tracker mlflow",
    "docs": "make docs: the documentation as a site",
    "test": "the tests, and working on alignment-bench itself",
}
HUB = "https://huggingface.co"
ROOM = 5 * 2**30  # bytes: a 1B model's checkpoints need about so many


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    state: State
    advice: str = ""


def doctor(
    root: Annotated[Path, typer.Option("--root", help="Folder where runs and cache would lie.")] = Path("results"),
    measure: Annotated[
        bool, typer.Option("--measure", help="First measure how much the GPU does at once, and keep it: some seconds.")
    ] = False,
) -> None:
    """Check Python, torch, device, threads, disk, network and extras; exit code 1 if something is broken.

    Example: bench doctor
    """
    if measure:
        _measure()
    found = [*_python(), *_torch(), *_machine(), *_disk(root), *_network(), *_plugins(), *_extras()]
    rows = [(f.state, f.what, f.found, f.advice) for f in found]
    console().print(table(("", "what", "found", "what to do"), rows))
    if any(f.state == "broken" for f in found):
        raise typer.Exit(1)


def _measure() -> None:
    """Measure each GPU's constants, one of a name, for the runs of this account on this machine."""
    import torch

    from ...errors import InputError
    from ...runtime.device import gpu_name
    from ..selfcheck.device_constants import keep

    if not torch.cuda.is_available():
        raise InputError("--measure is for a CUDA GPU, and there is none; a CPU's constants stand in a table")
    for name, device in {gpu_name(f"cuda:{i}"): f"cuda:{i}" for i in range(torch.cuda.device_count())}.items():
        found = keep(device)
        figures = found["figures"]
        console().print(
            f"{name}: a pass starts in {figures['pass_start_seconds'] * 1e3:.1f} ms, a block of attention in "
            f"{figures['block_start_seconds'] * 1e6:.0f} microseconds; "
            f"{figures['operations_a_second'] / 1e12:.1f}e12 bf16 operations and "
            f"{figures['bytes_a_second'] / 1e9:.0f}e9 copied bytes a second; up to {found['rows']} responses at once"
        )


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    yield Finding("Python", version, "ok" if fine else "broken", "" if fine else "install Python 3.11 or newer")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("torch", f"cannot be imported: {error}", "broken", "pip install -c constraints.txt -e .")
        return
    from ...models.tuning import Tuning
    from ...runtime.device import constants, measured_of

    yield Finding("torch", torch.__version__, "ok")
    tuning = Tuning().resolve()
    if tuning.device == "cuda":
        name = f"{torch.cuda.get_device_name()}, {size(torch.cuda.get_device_properties(0).total_memory)}"
        yield Finding("device", f"cuda: {name}, {tuning.precision}", "ok")
        if measured := measured_of(torch.cuda.get_device_name()):
            yield Finding("passes", f"measured on {measured['date']}", "ok")
        else:
            advice = "bench doctor --measure measures how large passes are best"
            yield Finding("passes", "reckoned from a data sheet", "note", advice)
    else:
        advice = "fine for quick; a model of 1B weights or more needs a GPU"
        narrow = Tuning().resolve(width=1).precision
        wide = f"; {tuning.precision} from a hidden size of {constants(tuning.device).bf16_width} on"
        found = f"{tuning.device}, {narrow}{wide if tuning.precision != narrow else ''}"
        yield Finding("device", found, "note" if tuning.device == "cpu" else "ok", advice)
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    odd = tuning.device == "cpu" and threads != cores
    yield Finding(
        "threads", f"{threads}, on {cores} cores", "note" if odd else "ok", "see OMP_NUM_THREADS" if odd else ""
    )


def _machine() -> Iterator[Finding]:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    yield Finding("memory", size(total), "ok")


def _disk(root: Path) -> Iterator[Finding]:
    folder = root.resolve()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield Finding("disk", f"{folder} cannot be written to", "broken", "give another folder with --root")
        return
    free = shutil.disk_usage(folder).free
    advice = "bench cache gc frees what no run refers to" if free < ROOM else ""
    yield Finding("disk", f"{size(free)} free at {folder}", "note" if free < ROOM else "ok", advice)


def _network() -> Iterator[Finding]:
    import httpx

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Finding("hub", "HF_HUB_OFFLINE is set", "note", "only what was downloaded before, and local files")
        return
    address = os.environ.get("HF_ENDPOINT", HUB)
    try:
        httpx.head(address, timeout=3.0, follow_redirects=True)
        yield Finding("hub", f"{address} answers", "ok")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        advice = "quick needs none; give local folders and files, or set HF_ENDPOINT to a mirror"
        yield Finding("hub", f"{address}: {str(error) or type(error).__name__}", "note", advice)


def _plugins() -> Iterator[Finding]:
    """Methods and evaluators of other packages."""
    from ...errors import InputError
    from ..definition.plugins import available, doubled, is_ours, load

    for group in ("methods", "evaluators"):
        for name, entry in available(group).items():
            if is_ours(entry.module) and name not in doubled(group):
                continue
            try:
                load(group, name)
                yield Finding(f"{group[:-1]} {name}", entry.value, "ok")
            except InputError as error:
                yield Finding(f"{group[:-1]} {name}", str(error), "broken", "repair or uninstall that package")


def _extras() -> Iterator[Finding]:
    from importlib.metadata import metadata

    for extra in metadata(PACKAGE).get_all("Provides-Extra") or []:
        missing, use = missing_packages(extra), EXTRAS.get(extra, f"the extra {extra}")
        if missing:
            yield Finding(f"for {use}", f"without {', '.join(missing)}", "note", f"pip install '{PACKAGE}[{extra}]'")
        else:
            yield Finding(f"for {use}", "installed", "ok")


def missing_packages(extra: str) -> list[str]:
    """The packages of an extra, and of the extras that it names, that are missing or not of the version it asks for."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    names = []
    for requirement in map(Requirement, requires(PACKAGE) or []):
        marker = requirement.marker
        if not marker or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue  # one of the package itself, or of another extra
        if requirement.name == PACKAGE:
            names += [name for other in sorted(requirement.extras) for name in missing_packages(other)]
            continue
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                names.append(f"{requirement.name}{requirement.specifier} ({version(requirement.name)} is installed)")
        except PackageNotFoundError:
            names.append(requirement.name)
    return names
