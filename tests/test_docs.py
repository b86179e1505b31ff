"""What the documentation shows is run as it stands, only smaller."""

import dataclasses
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from trcl_policy import config
from trcl_policy.cli import COMMANDS
from trcl_policy.continual import methods

ROOT = Path(__file__).parent.parent
SMALL = {
    "training.steps": 4,
    "network.width": 8,
    "network.depth": 1,
    "diffusion.acting_steps": 1,
    "diffusion.replay_steps": 1,
    "policy.n_action_steps": 8,
    "method.replay_samples": 16,
    "method.fisher_samples": 8,
    "evaluation.episodes": 1,
}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def run_small(page, folder, monkeypatch, **overrides):
    """Run a page's Python in ``folder``, with every configuration it loads made small."""
    load = config.load_config
    monkeypatch.setattr(config, "load_config", lambda name, given: load(name, {**SMALL, **overrides, **given}))
    monkeypatch.chdir(folder)
    (code,) = blocks(page)
    exec(compile(code, page, "exec"), {"__name__": page})  # our own documentation


@pytest.mark.sim
def test_own_data_page_runs(tmp_path, monkeypatch):
    run_small("docs/own_data.md", tmp_path, monkeypatch)
    metrics = json.loads((tmp_path / "runs/mine/metrics.json").read_text())
    assert metrics["tasks"] == ["drawer-open-v3", "door-open-v3"]
    assert metrics["num_episodes"] == [[1, None], [1, 1]]


def test_data_page_runs(tmp_path, monkeypatch):
    run_small("docs/data.md", tmp_path, monkeypatch)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["back.zarr", "seen.hdf5", "seen.zarr"]


def test_data_page_names_every_option_of_convert():
    from trcl_policy.commands.convert import Convert

    text = (ROOT / "docs/data.md").read_text()
    options = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Convert)}
    assert {option for option in options if option not in text} == {"--src", "--dst"}


@pytest.fixture
def tables():
    """The tables of methods as they were, after the test."""
    before = dict(methods.METHODS), dict(methods.UPDATES)
    yield
    for table, rows in zip((methods.METHODS, methods.UPDATES), before, strict=True):
        table.clear()
        table.update(rows)


@pytest.mark.sim
def test_own_method_page_runs(tmp_path, monkeypatch, tables):
    with monkeypatch.context() as patch:
        run_small("docs/own_data.md", tmp_path, patch)
    data = {"data.store": "data/mine.zarr", "data.episodes": 12, "data.held_out": 2}
    run_small("docs/own_method.md", tmp_path, monkeypatch, tasks=["drawer-open-v3", "door-open-v3"], **data)
    written = yaml.safe_load((tmp_path / "runs/surgery/config.yaml").read_text())
    assert written["method"]["name"] == "surgery"
    surgery, gradient, taken = methods.METHODS["surgery"].build(methods.Options()).update, torch.tensor([1.0, -2.0]), []
    for old in (None, -gradient, torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])):
        told = SimpleNamespace(apart=partial(lambda *pair: pair, gradient, old), descend=taken.append)
        assert surgery.step(told) is surgery
    assert taken[0] is gradient
    assert [found.tolist() for found in taken[1:3]] == [[0, 0], [2, -2]]
    torch.testing.assert_close(taken[3], torch.tensor([-0.8, -2.4]))


def test_example_methods_and_data_fit_in_forty_lines():
    for page in ("docs/own_data.md", "docs/own_method.md"):
        (code,) = blocks(page)
        assert len([line for line in code.splitlines() if line.strip()]) < 40


def test_readme_names_only_commands_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"^    trcl (\w+)", text, re.M))
    assert commands
    assert commands <= set(COMMANDS)
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link


TABLES = {
    "reproduce_quick.py": "docs/methods.md",
    "measure_knob.py": "docs/knob.md",
    "measure_parity.py": "docs/gpu.md",
    "rollout_tables.py": "docs/speed.md",
    "data_tables.py": "docs/data.md",
}


@pytest.mark.parametrize(("script", "page"), TABLES.items())
def test_table_of_the_page_is_that_of_the_stored_results(script, page):
    words = [sys.executable, ROOT / "scripts" / script, "--table"]
    made = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    shown = re.search(rf"<!-- table: scripts/{script} .*? -->\n(.*?)\n<!-- end -->", (ROOT / page).read_text(), re.S)
    assert shown is not None
    assert shown[1].strip() == made.strip()
