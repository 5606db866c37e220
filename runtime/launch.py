"""A process's entry among those that `accelerate launch` started."""

import atexit
import os
import sys
import traceback

from ..errors import InputError
from . import processes
from .processes import LONGEST_WAIT, is_true


def start(device: str) -> str:
    """Join the processes that `accelerate launch` started, if it did; returns the device of this one.

    device: as given by --device. All but the first process fall silent; an unexpected error is still shown.
    """
    if is_true("ACCELERATE_USE_DEEPSPEED"):
        from . import zero

        zero.check()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return device
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device} names one device, and there are several processes; leave it out")
    import torch
    from accelerate import PartialState

    if is_true("ACCELERATE_USE_FSDP"):
        from .sharding import check

        check()

    cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if is_true("ACCELERATE_USE_DEEPSPEED"):
        zero.load(cpu)
    state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
    atexit.register(state.destroy_process_group)  # later torch's threads may end the process by a signal
    processes.join(state.process_index, state.num_processes)
    if processes.rank():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
        sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)
    return state.device.type  # this process's own is the current one of its type
