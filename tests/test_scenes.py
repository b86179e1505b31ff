"""Images of simulated tasks: reproducible, varied, kept, and readable as an image set."""

import numpy as np
import pytest

from trcl_policy import scenes
from trcl_policy.images.labelled import Format
from trcl_policy.images.settings import ImageData
from trcl_policy.images.sources import read

TASKS = ["drawer-open"]

pytestmark = pytest.mark.sim


def test_scenes_are_rendered_once_and_read_as_images(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "STEPS", 6)
    path = scenes.make_scenes(tmp_path / "a.npz", TASKS, 3, size=16, progress=False)
    found = read(ImageData(source="scenes", path=str(path), form=Format(16, 3)))
    assert found.images.shape == (3, 3, 16, 16)
    assert found.names == ("drawer-open-v3",)
    assert found.labels.tolist() == [0, 0, 0]
    assert len({image.numpy().tobytes() for image in found.images}) == 3
    assert found.images.std() > 0.1
    monkeypatch.setattr(scenes, "WORLDS", 2)
    again = scenes.make_scenes(tmp_path / "b.npz", TASKS, 3, size=16, progress=False)
    with np.load(path) as one, np.load(again) as other:
        assert np.array_equal(one["image"], other["image"]), "worlds side by side must not matter"
    monkeypatch.setattr(scenes, "_rendered", None)  # would be called
    assert scenes.make_scenes(path, TASKS, 3, size=16) == path
    with pytest.raises(ValueError, match=r"a.npz must hold the scenes .* 4, 16, 0\], got .* 3, 16, 0\]"):
        scenes.make_scenes(path, TASKS, 4, size=16)


def test_other_files_and_numbers_are_named(tmp_path):
    (tmp_path / "a.npz").write_text("mine")
    with pytest.raises(ValueError, match=r"a\.npz must be an npz file of scenes"):
        scenes.make_scenes(tmp_path / "a.npz", TASKS, 1)
    with pytest.raises(ValueError, match="per_class must be >= 1 and size >= 2"):
        scenes.make_scenes(tmp_path / "b.npz", TASKS, 0)
    with pytest.raises(ValueError, match="did you mean 'hammer-v3'"):
        scenes.make_scenes(tmp_path / "b.npz", ["hamer"], 1)
