"""Press Ctrl-C in a terminal while a whole `bench run` trains, samples and scores, and go on until it ends.

python interrupt_and_resume.py MODEL FOLDER [METHOD] prints a line of JSON for each time that the command is given.
MODEL: folder of a tiny model; METHOD: one that trains in a process of its own. The command is given in forks of this
process, each in a pseudo-terminal, for the imports of each would take longer than all the rest. What is interrupted in
a fork waits there for the key: the terminal's table is drawn four times a second, and work that is done sooner may
never be seen.
"""

import json
import os
import pty
import re
import select
import signal
import sys
import termios
import time
import traceback
from pathlib import Path

import tqdm
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from trainings import run_result  # imports, as it does here, what every fork needs

from alignment_bench.benchmarks.cli.main import main as bench
from alignment_bench.evaluators.gold import Gold
from alignment_bench.models import sampler_torch
from alignment_bench.reports import page
from alignment_bench.training import resume

CTRL_C = b"\x03"
LONGEST = 60  # seconds that work waits for a key; without one the run ends with 0
CHANGES = {
    "sft": {"examples": 40},
    "budget": 160,
    "evaluators": {"gold": {"reward": "alignment_bench.benchmarks.world:true_reward"}, "divergence": None},
}


def hold(label: str, keys: int) -> None:
    """Let the work with this label, of a progress bar or `scores`, wait for so many keys, and act on each."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)  # a byte a signal

    def wait() -> None:
        for _ in range(keys):
            if select.select([reading], [], [], LONGEST)[0]:
                os.read(reading, 1)

    class Held(tqdm.tqdm):
        """A progress bar that waits when it has been drawn, before any work is done."""

        def __iter__(self):
            for i, each in enumerate(super().__iter__()):
                if not i:
                    self.wait()
                yield each

        def __enter__(self):
            self.wait()
            return super().__enter__()

        def wait(self):
            if not self.disable and self.desc == label:
                wait()

    def score(*given):
        if label == "scores":
            wait()
        return own_score(*given)

    resume.tqdm = sampler_torch.tqdm = Held
    own_score, Gold.score = Gold.score, score


class Terminal:
    """A pseudo-terminal in which `bench` runs in a fork of this process."""

    def __init__(self, *arguments: str, held: str = "", keys: int = 1):
        """held, keys: what is to wait there, and for how many keys."""
        self.shown = ""
        self.child, self.stream = pty.fork()
        if self.child:
            return
        code = 1
        try:
            os.environ["TERM"] = "xterm"
            termios.tcsetwinsize(0, (40, 150))  # progress bars are not drawn on a terminal without columns
            sys.argv = ["bench", *arguments]
            hold(held, keys)
            page.drawn = lambda material, looks: {}  # figures take longer than all the rest
            bench()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait_for(self, pattern: str) -> bool:
        """Read until this is shown, or to the end; whether it was."""
        start = len(self.shown)
        while not re.search(pattern, self.shown[start:]):
            try:
                self.shown += os.read(self.stream, 65536).decode(errors="replace")
            except OSError:  # the child has closed it
                return False
        return True

    def press(self, keys: bytes) -> None:
        os.write(self.stream, keys)

    def end(self) -> dict:
        """Wait for the end; exit code, and what was shown."""
        self.wait_for(r"$.^")
        _, status = os.waitpid(self.child, 0)
        os.close(self.stream)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown).replace("\r", "\n")
        return {
            "code": os.waitstatus_to_exitcode(status),
            "shown": [line for line in plain.split("\n") if line.strip()],
        }


def interrupted(command: list[str], *patterns: str, held: str = "") -> dict:
    """Give the command, and press Ctrl-C each time that one of these was shown after the one before."""
    terminal, pressed = Terminal(*command, held=held, keys=len(patterns)), 0
    for pattern in patterns:
        if terminal.wait_for(pattern):
            terminal.press(CTRL_C)
            pressed += 1
            started = time.monotonic()
    found = terminal.end()
    return {**found, "pressed": pressed, "seconds": time.monotonic() - started if pressed else None}


def main(model: str, folder: str, *apart: str) -> None:
    os.chdir(folder)
    spec = {"extends": str(Path(__file__).parent / "tiny.yaml"), "model": model, **CHANGES}
    Path("slower.yaml").write_text(yaml.safe_dump(spec))
    command = ["run", "-b", "slower.yaml", "-m", ",".join(("dpo", *apart)), "--gate", "ignore", "--root"]
    moments = {
        "SFT": ("SFT", r"SFT: +\d"),
        "training, twice": ("DPO seed 0", r"DPO seed 0: +\d", "once more to stop at once"),
        "training": ("DPO seed 0", r"DPO seed 0: +\d"),
        "responses": ("responses", r"responses: +\d"),
        "scores": ("scores", r"dpo .*scores"),
        **{f"start of {name}": ("", rf"{name}[^\n]*training") for name in apart},  # imports take seconds there
        **{f"training of {name}": ("", rf"(?i){name} seed 0: +\d") for name in apart},  # 20 steps
        "none": ("",),
    }
    for moment, (held, *patterns) in moments.items():
        said = interrupted([*command, "stopped"], *patterns, held=held)
        print(json.dumps({"moment": moment, **said, "steps": sorted(map(str, Path("stopped").rglob(".steps/[0-9]*")))}))
    print(json.dumps({"moment": "whole", **interrupted([*command, "whole"])}))
    ends = [next(Path(root).glob("runs/*/*/summary.json")) for root in ("stopped", "whole")]
    one, other = map(run_result, ends)
    print(json.dumps({"same": one == other, "files": len(one[0])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
