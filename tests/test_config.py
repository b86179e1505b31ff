"""YAML files, overrides and the way back."""

import dataclasses
import re

import pytest
import yaml

from trcl_policy.config import (
    PolicyConfig,
    RunConfig,
    config_folders,
    config_names,
    dump_config,
    find_config,
    load_config,
    make_config,
)
from trcl_policy.continual.methods import METHODS
from trcl_policy.schema import ConfigError


def test_a_dumped_configuration_fed_back_is_the_same(tmp_path):
    overrides = {"tasks": ["a", "b"], "training.steps": 7, "method.raw_lambda": 3.5, "network.channels": [8, 16]}
    config = load_config("quickstart", overrides)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert dump_config(again) == dump_config(config)
    assert config.tasks == ("a", "b")
    assert config.network.channels == (8, 16)


def test_defaults_equal_an_empty_file(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == RunConfig() == make_config({})


def test_names_stand_for_the_files_that_ship():
    assert "quickstart" in config_names()
    by_name, by_path = find_config("quickstart"), config_folders()[0] / "quickstart.yaml"
    assert load_config(by_name) == load_config(by_path) == load_config("quickstart.yaml")


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_that_ships_is_valid(name):
    document = find_config(name).read_text()
    if document.startswith("- "):  # a list of tasks
        return
    assert isinstance(load_config(name), RunConfig)


def test_a_file_in_the_way_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("seed: 7\n")
    assert load_config("quickstart").seed == 7


def test_command_line_wins_and_misspelt_overrides_are_named():
    assert load_config("quickstart", {"training.steps": 11}).training.steps == 11
    with pytest.raises(ConfigError, match=r"^unknown setting trainin\.steps \(did you mean training\.steps\?\)$"):
        load_config("quickstart", {"trainin.steps": 11})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_configured(name):
    assert make_config({"method": {"name": name}}).method.name == name


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"method": {"rise": -1, "name": "trcl_ball"}}, "method.rise must be > 0"),
        ({"method": {"noise_range": [0.5, 0.2], "name": "ewc"}}, "noise_range must be (low, high)"),
        ({"method": {"teacher": "best"}}, "teacher must be one of ema, raw, got 'best'"),
        ({"compile": True, "method": {"name": "ftml"}}, "compile must be false for ftml unless"),
        ({"data": {"held_out": 50}}, "data.held_out must be in [0, episodes = 50), got 50"),
        ({"policy": {"policy_fraction": 1.5}}, "policy.policy_fraction must be in [0, 1], got 1.5"),
        ({"evaluation": {"seed": -1}}, "evaluation.seed must be >= 0, got -1"),
        ({"network": {"kind": "cnn"}}, "network.kind must be one of mlp, unet, got 'cnn'"),
        ({"network": {"channels": []}}, "network.channels must be multiples of 8, got []"),
        ({"diffusion": {"acting_steps": 200}}, "diffusion.acting_steps must be in [1, num_train_timesteps = 100]"),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda (did you mean cpu?), got 'gpu'"),
    ],
)
def test_impossible_values_are_named(document, part):
    with pytest.raises(ConfigError) as caught:
        make_config(document)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_observation_entries():
    assert PolicyConfig(observation_indices="0:2,5").indices(6) == (0, 1, 5)
    assert PolicyConfig(observation_indices="").indices(3) == (0, 1, 2)
    for wrong in ("0:2,1", "a", "0:7", "-1", "3:1", "0:2:1", ","):
        with pytest.raises(ValueError, match="observation_indices must be"):
            PolicyConfig(observation_indices=wrong).indices(6)


def test_every_field_is_documented():
    for cls in (RunConfig, *(type(getattr(RunConfig(), f.name)) for f in dataclasses.fields(RunConfig))):
        if dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                if dataclasses.is_dataclass(getattr(cls(), field.name)):
                    continue
                assert any(f"{field.name}:" in (base.__doc__ or "") for base in cls.__mro__), (cls, field.name)


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"policy": {"horizon": 4}}, "policy.horizon must be left out with domain images, got 4"),
        ({"data": {"store": "a.zarr"}}, "data.store must be left out with domain images, got 'a.zarr'"),
        ({"network": {"width": 8}}, "network.width must be left out with domain images, got 8"),
        ({"tasks": "cw10"}, "tasks must be left out with domain images, got 'cw10'"),
        ({"evaluation": {"episodes": 3}}, "evaluation.episodes must be left out with domain images, got 3"),
        ({"evaluation": {"alone": "runs/a"}}, "evaluation.alone must be left out with domain images, got 'runs/a'"),
        ({"method": {"name": "tdgr"}}, "got tdgr: an image is no sequence to be guided along"),
        ({"method": {"name": "replay_rollout"}}, "got replay_rollout: images can't be rolled out"),
        ({"domain": "policy", "images": {"condition": "task"}}, "images.condition must be left out with domain policy"),
    ],
)
def test_what_a_domain_has_no_use_for_is_one_line(document, line):
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        make_config({"domain": "images", **document})
    assert "\n" not in str(caught.value)


def test_a_domain_keeps_only_its_own_groups(tmp_path):
    rendered = {"source": "scenes", "path": "s.npz", "per_class": 4}
    split = {"classes": [["a", 1], ["b"]]}
    config = make_config({"domain": "images", "tasks": "cw10", "images": {"data": rendered, "split": split}})
    text = dump_config(config)
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml") == config
    assert not {"data", "policy", "network"} & set(yaml.safe_load(text))
    assert "images" not in yaml.safe_load(dump_config(RunConfig()))
