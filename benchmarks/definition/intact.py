"""Torch's switches and the functions that compute, which all rows of a run share in this process, kept as they were.

Plugins are imported and their evaluators score in the process that trains and scores the others, where a function that
one of them replaced would change the others' numbers under the same keys.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ...errors import InputError

WATCHED = ("alignment_bench", "torch", "transformers", "peft", "tokenizers", "numpy", "random", "math")
PRECISIONS = (("generic", "all"), ("mkldnn", "all"), ("mkldnn", "matmul"), ("cuda", "all"), ("cuda", "matmul"))
Place = tuple[str, str, str]  # module, class or nothing, attribute


@contextlib.contextmanager
def refused(what: str, module: str) -> Iterator[None]:
    """InputError where what happens within leaves something else behind than it found; all of it is put back.

    module: the plugin's own. What is imported within for the first time has no earlier state: there only functions of
    the plugin's own package are found, and not put back. Found too is what stands in for something that a library
    imports when it is asked for.
    """
    changed: list[str] = []
    with put_back(changed) as functions:
        before = set(sys.modules)
        yield
        for place, value in list(_functions()):
            of = (getattr(value, "__module__", None) or "").partition(".")[0]
            if place in functions or of != module.partition(".")[0]:
                continue
            if place[0] not in before:
                changed.append(_name(place))
            elif not place[1] and _stands_in(place):
                changed.append(_name(place))
                delattr(_owner(place), place[2])
    if changed:
        raise InputError(
            f"{what} changes {changed[0]}, on which the numbers of every row depend; change it in `train`, which has a "
            f"process of its own, or uninstall that package"
        )


@contextlib.contextmanager
def put_back(changed: list[str] | None = None) -> Iterator[Mapping[Place, Any]]:
    """Put back what happens within changes, and yield the functions there were; changed: takes the names of it."""
    switches, functions = _switches(), dict(_functions())
    bodies = {place: body for place, value in functions.items() if (body := _body(value))}
    found = changed if changed is not None else []
    try:
        yield functions
    finally:
        for name, value in _switches().items():
            if value != switches[name]:
                found.append(name)
                _turn(name, switches[name])
        for place, value in list(_functions()):
            if place in functions:
                if functions[place] is not value:
                    found.append(_name(place))
                    _set(place, functions[place])
            elif place[1] and functions.get((place[0], "", place[1])) is _owner(place) and _stands_in(place):
                found.append(_name(place))  # for what the class inherits
                delattr(_owner(place), place[2])
        for place, (function, code, defaults) in bodies.items():
            if function.__code__ is not code or function.__defaults__ is not defaults:
                found.append(_name(place))
                function.__code__, function.__defaults__ = code, defaults


def _body(value: Any) -> tuple[FunctionType, CodeType, tuple[Any, ...] | None] | None:
    """A function written in Python, with its code and defaults; None for what is no such function or method."""
    function = getattr(value, "__func__", value)
    return (function, function.__code__, function.__defaults__) if isinstance(function, FunctionType) else None


def _switches() -> dict[str, Any]:
    return {name: read() for name, (read, _) in _of_torch().items()}


def _turn(name: str, value: Any) -> None:
    _of_torch()[name][1](value)


def _of_torch() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Torch's switches by what they are called, each with how it is read and turned."""
    import torch

    return {
        "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch's default device": (torch.get_default_device, torch.set_default_device),
        "whether torch has gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
        "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
        "torch's choice of deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
        "torch's precision of matrix products": (_precision, _set_precision),
        **{
            f"torch's autocast on {device}": (
                partial(torch.is_autocast_enabled, device),
                partial(torch.set_autocast_enabled, device),
            )
            for device in ("cpu", "cuda")
        },
        "torch's use of mkldnn": (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
        "torch's use of flash attention": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
        "torch's use of memory-efficient attention": (
            torch.backends.cuda.mem_efficient_sdp_enabled,
            torch.backends.cuda.enable_mem_efficient_sdp,
        ),
    }


def _precision() -> tuple[str | None, list[str]]:
    """Torch's precision of float32 products as its older function has it, None where that refuses, and by part."""
    import torch

    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # a part was set since, with another precision
        older = None
    return older, [torch._C._get_fp32_precision_getter(*part) for part in PRECISIONS]


def _set_precision(value: tuple[str | None, list[str]]) -> None:
    import torch

    older, parts = value
    if older is not None:
        torch.set_float32_matmul_precision(older)  # which sets parts as well
    for part, precision in zip(PRECISIONS, parts, strict=True):
        torch._C._set_fp32_precision_setter(*part, precision)


def _functions() -> Iterator[tuple[Place, Any]]:
    """Functions and classes of watched modules, and the functions of their own classes, by place."""
    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] in WATCHED]:
        if not isinstance(module, ModuleType):
            continue
        for name, value in list(vars(module).items()):
            if not callable(value):
                continue
            yield (module.__name__, "", name), value
            if isinstance(value, type) and value.__module__ == module.__name__:
                for inner, member in list(vars(value).items()):
                    if callable(member) or isinstance(member, staticmethod | classmethod | property):
                        yield (module.__name__, name, inner), member


def _name(place: Place) -> str:
    return ".".join(part for part in place if part)


def _owner(place: Place) -> Any:
    """The class or module that has it."""
    module, cls, _ = place
    return getattr(sys.modules[module], cls) if cls else sys.modules[module]


def _set(place: Place, value: Any) -> None:
    setattr(_owner(place), place[2], value)


def _stands_in(place: Place) -> bool:
    """True if the owner has something of that name without it: inherited, or imported when it is asked for."""
    owner, name = _owner(place), place[2]
    if isinstance(owner, type):
        return any(name in vars(base) for base in owner.__mro__[1:])
    return name in getattr(owner, "_class_to_module", ())  # of transformers' lazy modules
