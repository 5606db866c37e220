"""A pretend CUDA device on a machine without one: what code would mix, wait for and launch on a GPU.

    with pretend_cuda() as seen:
        method.train(task)  # a task whose tuning says device="cuda"
    print(seen.table())

Tensors stay on the CPU and are computed there, so all numbers are real; beside them stands where each storage is said
to lie. Two modes keep the books. `_Asked` sees what Python calls: it answers `.device`, `.to("cuda")` and factories
with `device="cuda"`, and refuses `.numpy()` and generators of the other device. `_Done` sees every operation below,
those of backward passes too: it refuses operands of two devices and counts

    launches  operations on the device but views: about a kernel each
    waits     reads of its values, for which the CPU waits until all that was launched is done
    copies    from the CPU to it

by the line of the package that asked, and within a `part` (an optimizer step, say) by its name.

A storage is on the CPU, on the device, or undecided: made within an operation that was given no tensor, which on a GPU
would have been told its device.

Not shown: what only CUDA's own kernels do (numbers that they refuse, alignment, order of sums, speed), memory, streams
and races, several devices. Attention takes the CPU's kernel, and autocast the CPU's list of operations.
"""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

import peft  # noqa: F401  (with what it imports in turn, which looks for CUDA then)
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

PACKAGE = "alignment_bench."
CPU, CUDA, UNDECIDED = "cpu", "cuda", "undecided"

# Operations that may meet tensors of the CPU: copies between devices; and those that move indices themselves.
COPIES = {"copy_", "_to_copy", "_copy_from", "set_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# Operations, pointwise ones aside, that take a tensor of the CPU for a number if it has no dimensions.
SCALAR_TAKING = {"fill", "fill_", "masked_fill", "masked_fill_", "where", "copy_", "clamp", "_fused_adamw_", *INDEXING}
# Operations that read values to know what comes out of them, or how large it is.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}
READING |= {"repeat_interleave", "bincount", "is_nonzero"}
# Operations without a kernel: other views of a storage, and memory that is left as it is.
VIEWS = set(
    """detach alias view _unsafe_view as_strided expand permute transpose t slice select unsqueeze squeeze split
    split_with_sizes unbind _reshape_alias narrow lift_fresh chunk unfold diagonal set_ resize_ empty empty_like
    new_empty new_empty_strided empty_strided _local_scalar_dense""".split()
)

GPU_WORDS = ("cuda", "gpu", "flash", "bf16", "fp16", "tf32", "device")  # in names of what libraries find out once


class Mixed(RuntimeError):
    """Tensors of two devices met."""


@dataclass
class Seen:
    """What happened on the pretend device: counts by (part, line of the package)."""

    launches: Counter = field(default_factory=Counter)
    waits: Counter = field(default_factory=Counter)
    copies: Counter = field(default_factory=Counter)
    parts: Counter = field(default_factory=Counter)
    """How often each part was entered."""
    part_now: str = ""

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is counted within stands under this name too; parts do not nest."""
        before, self.part_now = self.part_now, name
        self.parts[name] += 1
        try:
            yield
        finally:
            self.part_now = before

    def count(self, kind: str, part: str | None = None) -> int:
        """All launches, waits or copies, or those within a part."""
        return sum(n for (name, _), n in getattr(self, kind).items() if part in (None, name))

    def lines(self, kind: str, part: str | None = None) -> Counter:
        """The same by line."""
        found: Counter = Counter()
        for (name, line), number in getattr(self, kind).items():
            if part in (None, name):
                found[line] += number
        return found

    def table(self, part: str | None = None, most: int = 12) -> str:
        """Totals, and the lines with the most of each."""
        kinds = ("waits", "copies", "launches")
        rows = [", ".join(f"{kind} {self.count(kind, part):,}" for kind in kinds)]
        rows += [f"{kind:9}{n:8,}  {at}" for kind in kinds for at, n in self.lines(kind, part).most_common(most)]
        return "\n".join(rows)

    def add(self, kind: str) -> None:
        getattr(self, kind)[self.part_now, _line()] += 1


def _line() -> str:
    """The innermost line of the package on the stack."""
    frame = sys._getframe(2)
    while frame:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


class _Places:
    """Where each storage is said to lie; one that is not known lies on the CPU."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[StorageWeakRef, str]] = {}  # a weak reference keeps the address from another's use

    def of(self, tensor: Tensor) -> str:
        found = self._of.get(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else None
        return found[1] if found else CPU

    def put(self, tensors: list[Tensor], place: str) -> None:
        for tensor in tensors:
            if tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                self._of[storage._cdata] = StorageWeakRef(storage), place
        if len(self._of) > 20_000:
            self._of = {key: found for key, found in self._of.items() if not found[0].expired()}


def _tensors(*values: object) -> list[Tensor]:
    """Tensors at any depth; torch's own function for it takes as long as all else here."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


class _Done(TorchDispatchMode):
    """Every operation, with the devices of what goes in and comes out."""

    def __init__(self, seen: Seen, places: _Places):
        super().__init__()
        self.seen, self.places = seen, places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, given = func.overloadpacket.__name__, _tensors(args, kwargs)
        where = [self.places.of(tensor) for tensor in given]
        on_device = CUDA in where
        if on_device and CPU in where and name not in COPIES:
            self._check(func, name, args, given, where)
        if name == "copy_" and {*where[:2]} == {CPU, CUDA}:
            self.seen.add("copies" if where[0] == CUDA else "waits")
        by_mask = name in INDEXING and any(index.dtype == torch.bool for index in _tensors(args[1]))
        if on_device and (name in READING or by_mask):
            self.seen.add("waits")
        out = func(*args, **kwargs)
        if name == "copy_":
            if where[0] == UNDECIDED:
                self.places.put([args[0]], where[1])
        elif on_device:
            undecided = [tensor for tensor, place in zip(given, where, strict=True) if place == UNDECIDED]
            self.places.put([*_tensors(out), *undecided], CUDA)
            if name not in VIEWS:
                self.seen.add("launches")
        elif not given or UNDECIDED in where and CPU not in where:
            self.places.put(_tensors(out), UNDECIDED)
        return out

    def _check(self, func, name, args, given, where) -> None:
        """Mixed, unless those of the CPU are numbers or indices."""
        numbers = torch.Tag.pointwise in func.tags or name in SCALAR_TAKING or name.startswith("_foreach")
        strangers = [t for t, place in zip(given, where, strict=True) if place == CPU and (t.dim() or not numbers)]
        if name in INDEXING and self.places.of(args[0]) == CUDA:
            indices = {id(index) for index in _tensors(args[1])}
            strangers = [tensor for tensor in strangers if id(tensor) not in indices]
            if not strangers:
                self.seen.add("copies")
        if strangers:
            told = ", ".join(f"{place} {[*t.shape]}" for t, place in zip(given, where, strict=True))
            raise Mixed(f"expected all tensors on the same device: aten.{name} of {told} at {_line()}")


class _Asked(TorchFunctionMode):
    """What Python asks of tensors: their device, copies elsewhere, values."""

    def __init__(self, seen: Seen, places: _Places):
        super().__init__()
        self.seen, self.places = seen, places

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") == "__get__":
            return self._attribute(func, args)
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._to(func, args, kwargs)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        on_device = first is not None and self.places.of(first) == CUDA
        if func is Tensor.get_device:
            return 0 if on_device else -1
        if func is Tensor.tolist and on_device:
            self.seen.add("waits")
        if func in (Tensor.numpy, Tensor.__array__) and on_device:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy at {_line()}")
        wanted = kwargs.get("device")
        wanted = torch.device(wanted).type if isinstance(wanted, str | torch.device) else None
        generator = kwargs.get("generator")
        if generator is not None and CUDA in (wanted, on_device and wanted is None and CUDA):
            raise RuntimeError(f"expected a 'cuda' device type for generator but found 'cpu' at {_line()}")
        from_values = func in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
        if wanted == CUDA:
            kwargs["device"] = torch.device(CPU)
        out = func(*args, **kwargs)
        target = wanted or (CUDA if func is Tensor.new_tensor and on_device else None)
        if target == CUDA and from_values and not (on_device and func is not Tensor.new_tensor):
            self.seen.add("copies")
        if target in (CPU, CUDA):
            self.places.put(_tensors(out), target)
        elif all(self.places.of(tensor) == CPU for tensor in _tensors(args, kwargs)):
            self.places.put([tensor for tensor in _tensors(out) if self.places.of(tensor) == UNDECIDED], CPU)
        return out

    def _attribute(self, func, args):
        owner = getattr(getattr(func, "__self__", None), "__name__", "")
        on_device = owner in ("device", "is_cuda", "is_cpu") and self.places.of(args[0]) == CUDA
        if owner == "device" and on_device:
            return torch.device(CUDA, 0)
        if owner in ("is_cuda", "is_cpu"):
            return on_device == (owner == "is_cuda")
        return func(*args)

    def _to(self, func, args, kwargs):
        tensor, *rest = args
        if func is not Tensor.to:
            rest, kwargs = [CUDA if func is Tensor.cuda else CPU], {}
        if rest and isinstance(rest[0], Tensor):
            rest = [rest[0].device, rest[0].dtype, *rest[1:]]
        named = {name: value for name, value in kwargs.items() if name not in ("copy", "memory_format")}
        device, dtype, *_ = torch._C._nn._parse_to(*rest, **named)
        place = self.places.of(tensor)
        if device is not None and device.type not in (CPU, CUDA):
            return func(*args, **kwargs)  # meta
        out = tensor.to(dtype=dtype or tensor.dtype, copy=kwargs.get("copy", False))
        if device is None:
            return out
        if place != device.type and place != UNDECIDED:
            self.seen.add("copies" if device.type == CUDA else "waits")
            shared = out.untyped_storage()._cdata == tensor.untyped_storage()._cdata
            with _disable_current_modes():  # a transfer is no kernel
                out = tensor.clone() if shared else out
        self.places.put([out], device.type)
        return out


class _Autocast(torch.autocast):
    """Autocast on the device, by the CPU's list of operations."""

    def __init__(self, device_type: str, *given, **named):
        super().__init__(CPU if device_type == CUDA else device_type, *given, **named)


def _patches(places: _Places, bf16: bool) -> list:
    """What torch would say of itself with one CUDA device."""
    group = torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype

    def grouped(lists, with_indices=False):  # C++ tells where tensors really lie
        found = group(lists, with_indices)
        device = lambda many, real: torch.device(CUDA, 0) if places.of(many[0][0]) == CUDA else real  # noqa: E731
        return {(device(many, real), kind): (many, rest) for (real, kind), (many, rest) in found.items()}

    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: bf16,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "mem_get_info": lambda device=None: (2**36, 2**36),
        "get_rng_state_all": lambda: [torch.zeros(16, dtype=torch.uint8)],
        "set_rng_state": lambda state, device=0: None,
        "get_device_name": lambda device=None: "pretend",
        "get_device_capability": lambda device=None: (9, 0),
        "is_current_stream_capturing": lambda: False,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
    }
    patches = [mock.patch.object(torch.cuda, name, answer) for name, answer in answers.items()]
    patches += [mock.patch.object(module, "autocast", _Autocast) for module in (torch, torch.amp)]
    # transformers would read weights in other threads, which no mode sees
    patches.append(mock.patch.dict(os.environ, {"HF_DEACTIVATE_ASYNC_LOAD": "1"}))
    return [*patches, mock.patch.object(torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", grouped)]


def _forget_answers() -> None:
    """Libraries remember whether there is a GPU and what it can; they are to ask again, before and after."""
    for library in ("transformers.utils.import_utils", "peft.import_utils", "accelerate.utils.imports"):
        for name, value in vars(sys.modules.get(library, contextlib)).items():
            if hasattr(value, "cache_clear") and any(word in name for word in GPU_WORDS):
                value.cache_clear()


@contextlib.contextmanager
def pretend_cuda(*, bf16: bool = True) -> Iterator[Seen]:
    """A machine with one CUDA device, called `cuda` or `cuda:0`; bf16: it multiplies in bf16."""
    seen, places = Seen(), _Places()
    _forget_answers()
    try:
        with contextlib.ExitStack() as stack:
            for patch in _patches(places, bf16):
                stack.enter_context(patch)
            stack.enter_context(_Asked(seen, places))
            stack.enter_context(_Done(seen, places))
            yield seen
    finally:
        _forget_answers()
