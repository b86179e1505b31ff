"""Jobs that write a line when they begin and when they end, and a driver that is run as a process and may be killed.

python tests/fake_jobs.py FOLDER NAME ...     # whose jobs wait for a file FOLDER/go
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.scripts import script

job_queue, jobs, launchers = (script(name) for name in ("job_queue", "jobs", "launchers"))
WORK = """
import signal, sys, time
from pathlib import Path
folder, seconds, status = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def tell(what):
    with (folder.parent / "ledger").open("a") as file:
        file.write(f"{folder.name} {what}\\n")
def stop(number, frame):
    tell("saved")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
tell("begins")
print("work on", folder.name, flush=True)
time.sleep(max(0, seconds))
while seconds < 0 and not (folder.parent / "go").exists():
    time.sleep(0.02)
tell("ends")
if not status:
    folder.mkdir(exist_ok=True)
    (folder / sys.argv[4]).touch()
sys.exit(status)
"""


@dataclass(frozen=True)
class FakeJob(jobs.Job):
    """Two commands, ``trained`` and ``probed``, as files of the folder; of negative seconds they wait for ``go``."""

    seconds: float = 0.0
    status: int = 0

    def commands(self):
        """What is still to be done."""
        rest = [name for name in ("trained", "probed") if not (self.folder / name).exists()]
        words = (str(self.folder), str(self.seconds), str(self.status))
        return [[sys.executable, "-c", WORK, *words, name] for name in rest]

    def share_done(self):
        """Never known."""
        return 0.0


def ledger(folder):
    """The lines that jobs have written."""
    path = folder / "ledger"
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    made = [FakeJob(Path(folder) / name, "none", kind="fake", seconds=-1) for name in names]
    job_queue.HEARTBEAT_S = 0.5
    forecast = job_queue.Forecast({}, lambda kind: 60)
    sys.exit(job_queue.run_jobs(made, launchers.LocalLauncher(2), forecast, keep_going=True, quiet=True))
