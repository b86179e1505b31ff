"""Jobs of the queue as tasks of a Ray cluster. The one script that imports ray, and only when it is asked for.

The machines of the cluster must see the same files under the same paths (a shared folder), because runs are read and
written there.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MISSING = "launcher ray needs the package ray, which is not installed: pip install 'trcl-policy[ray]'"


class RayLauncher:
    """One Ray task a job, each on one CPU (and a share of a GPU).

    Joins the cluster of RAY_ADDRESS, or starts one on this machine.

    Args:
        slots: jobs at a time; None takes as many as the cluster has CPUs.
        gpus: GPUs a job, such as .5.

    Raises:
        ValueError: ray is not installed.
    """

    def __init__(self, slots: int | None = None, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError(MISSING) from None
        self._ray = ray
        if not ray.is_initialized():
            ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
        self.slots = slots or max(1, int(ray.cluster_resources().get("CPU", 1)))
        places = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
        found = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, places))}}  # where workers import this file
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0, "runtime_env": found}
        self._task = ray.remote(**options)(run_commands)

    def start(self, commands: Sequence[Sequence[str]], log: Path | None, lock: int) -> _Task:
        """See ``jobs.Launcher``; the lock stays with this process, whose end ends the task."""
        place = None if log is None else str(log.resolve())
        settings = {name: os.environ[name] for name in ("PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
        words = [list(command) for command in commands]
        return _Task(self._ray, self._task.remote(words, place, os.getcwd(), settings), log)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()


class _Task:
    def __init__(self, ray: Any, reference: Any, log: Path | None) -> None:
        self._ray, self._reference, self._log = ray, reference, log

    def poll(self) -> int | None:
        ready, _ = self._ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            return int(self._ray.get(self._reference))
        except self._ray.exceptions.RayError as error:  # the machine is gone, or Ray could not start the task
            with open(self._log or os.devnull, "a") as out:
                out.write(f"{type(error).__name__}: {error}\n")
            return 1

    def stop(self) -> None:
        self._ray.cancel(self._reference)
        self._ray.wait([self._reference], timeout=60)


def run_commands(commands: list[list[str]], log: str | None, folder: str, settings: dict[str, str]) -> int:
    """Run the commands one after another in ``folder`` until one fails; returns its status.

    Runs where Ray puts it. A cancelled task asks its command to save and end, and waits for it.
    """
    for words in commands:
        with open(log or os.devnull, "ab") as out:
            process = subprocess.Popen(
                words, cwd=folder, env={**os.environ, **settings}, stdout=out, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None:  # a wait would not hear that the task is cancelled
                    time.sleep(0.2)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            return process.returncode
    return 0
