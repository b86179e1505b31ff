"""The simulating side of ``--env-python``: ``python -m trcl_envs.serve`` answers ``trcl_envs.remote`` on its pipes.

It needs this package, NumPy and the simulator it is asked for. It answers one message after another and ends when its
standard input does.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from trcl_envs.catalog import make_env, make_expert, make_renderer
from trcl_envs.interface import Scene, SimulationError
from trcl_envs.versions import simulating
from trcl_envs.wire import PROTOCOL, Channel, WireError

MAKERS: dict[str, Callable[..., Any]] = {"env": make_env, "expert": make_expert, "renderer": make_renderer}
CALLS: dict[str, Callable[..., Any]] = {
    "env.info": lambda env: vars(env.info),
    "env.reset": lambda env, seeds: env.reset(seeds),
    "env.reset_rows": lambda env, rows, seeds: env.reset_rows(rows, seeds),
    "env.step": lambda env, actions, active: vars(env.step(actions, active)),
    "env.scene": lambda env, row: vars(env.scene(row)),
    "env.close": lambda env: env.close(),
    "expert.reset": lambda expert, num_worlds: expert.reset(num_worlds),
    "expert.actions": lambda expert, observations: expert.actions(observations),
    "expert.close": lambda expert: None,
    "renderer.frame": lambda renderer, scene: renderer.frame(Scene(**scene)),
    "renderer.close": lambda renderer: renderer.close(),
}


class Server:
    """Keeps what was made and does what is asked."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[str, Any]] = {}
        self._number = 0

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """``{"value": ...}``, or ``{"error": TYPE, "message": ...}``; what nobody foresaw is told on stderr in full."""
        try:
            return {"value": self._do(message["call"], message["on"], message["with"])}
        except (ValueError, SimulationError) as error:
            kind = "ValueError" if isinstance(error, ValueError) else "SimulationError"
            return {"error": kind, "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            return {"error": "SimulationError", "message": f"{type(error).__name__}: {error}"}

    def _do(self, call: str, on: int | None, arguments: dict[str, Any]) -> Any:
        if on is None:
            self._number += 1
            self._made[self._number] = (call, MAKERS[call](**arguments))
            return self._number
        kind, thing = self._made[on]
        value = CALLS[f"{kind}.{call}"](thing, **arguments)
        if call == "close":
            del self._made[on]
        return value


def main() -> None:
    """Answer until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the asking side ends this one
    inbox, outbox = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # simulators print; that must not get between the messages
    channel, server = Channel(inbox, outbox), Server()
    try:
        channel.send({"protocol": PROTOCOL, "versions": simulating()})
        while True:
            channel.send(server.answer(channel.receive()))
    except WireError:
        return  # nobody is there any more


if __name__ == "__main__":
    main()
