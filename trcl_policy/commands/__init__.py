"""The commands of ``trcl``: typed options in, work done, a table or one JSON document out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trcl_policy.commands import collect, convert, fisher, measure, show, train
from trcl_policy.commands.parsing import parse

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "collect": (collect.Collect, collect.collect),
    "convert": (convert.Convert, convert.convert),
    "evaluate": (measure.Evaluate, measure.evaluate),
    "recover": (measure.Recover, measure.recover),
    "fisher": (fisher.Fisher, fisher.fisher),
    "record": (show.Record, show.record),
    "report": (show.Report, show.report),
    "methods": (show.Listing, show.methods),
    "tasks": (show.Listing, show.tasks),
    "doctor": (show.Listing, show.doctor),
}


def run(name: str, words: list[str]) -> int:
    """Run the command ``name`` with the words that followed it; returns the exit status."""
    if name == "train":  # takes every setting of a run by its dotted name, checked like the YAML file
        return train.train(words)
    options, work = COMMANDS[name]
    return work(parse(options, name, words))
