"""Two processes as a launcher starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
RUNTIME = Path(__file__).parent / "runtime"


def side_by_side(program: str, *arguments, cwd: Path | None = None, **environment: str) -> list[tuple[int, str, str]]:
    """Run a script of tests/runtime, or a module, in two processes; the code, stdout and stderr of each.

    Both are killed when they have not ended after 200 seconds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [str(RUNTIME / program)] if program.endswith(".py") else ["-m", program]
    both = [
        subprocess.Popen(
            [sys.executable, *started, *map(str, arguments)],
            cwd=cwd,
            env={
                **ENVIRONMENT,
                **environment,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=200) for process in both]
    finally:
        for process in both:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(both, said, strict=True)]
