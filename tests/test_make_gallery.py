"""Gallery pictures stay small, and the page tells success at the filmed moments."""

import json

import pytest
import yaml

from tests.fake_results import document, triangle
from tests.scripts import FOLDER, script

gallery = script("make_gallery")
PAGE = (FOLDER.parent / "docs" / "gallery.md").read_text()


def make_run(folder, method, final, tasks=("hammer-v3", "push-wall-v3", "faucet-close-v3")):
    made = document(triangle([0.9] * 3, final), method=method)
    made["metrics"]["tasks"] = list(tasks)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(made["metrics"]))
    (folder / "config.yaml").write_text(yaml.safe_dump(made["config"]))
    return folder


@pytest.fixture
def filmed(tmp_path, monkeypatch):
    """Two runs, a page, and a camera whose files take 10,000 bytes a pixel of width."""
    shots = []

    def film(panels, task, recovery_steps, size, out):
        shots.append(([(folder.path.name, moment) for folder, moment in panels], task, recovery_steps, size))
        out.parent.mkdir(exist_ok=True)
        out.write_bytes(b"x" * size * 10_000)

    monkeypatch.setattr(gallery, "film_panels", film)
    (tmp_path / "gallery.md").write_text(PAGE)
    make_run(tmp_path / "runs" / "finetune", "finetune", [0.1, 0.2, 0.9])
    make_run(tmp_path / "runs" / "trcl", "trcl", [0.8, 0.7, 0.9])
    words = ["--forgets", tmp_path / "runs" / "finetune", "--keeps", tmp_path / "runs" / "trcl"]
    return tmp_path, [*map(str, words), "--page", str(tmp_path / "gallery.md")], shots


def test_pictures_shrink_until_they_are_small_and_tell_four_moments(filmed):
    folder, words, shots = filmed
    assert gallery.main([*words, "--recovery-steps", "50"]) == 0
    assert [(task, size) for _, task, _, size in shots[:3]] == [("hammer-v3", size) for size in (224, 176, 128)]
    panels = [("finetune", "learned"), ("finetune", "forgotten"), ("trcl", "forgotten"), ("finetune", "recovered")]
    assert all(shot[0] == panels and shot[2] == 50 for shot in shots)
    made = {path.name: path.stat().st_size for path in (folder / "images").iterdir()}
    names = ["gallery-faucet-close.webp", "gallery-hammer.webp", "gallery-push-wall.webp"]
    assert sorted(made) == names
    assert max(made.values()) < gallery.LIMIT


def test_the_page_shows_the_pictures_and_success_at_their_moments(filmed):
    folder, words, _ = filmed
    assert gallery.main([*words, "--tasks", "push-wall"]) == 0
    page = (folder / "gallery.md").read_text()
    assert "(images/gallery-push-wall.webp)" in page
    assert "| push-wall | 0.90 (0.80 to 1.00) | 0.20 (0.10 to 0.30) | 0.70 (0.60 to 0.80) |" in page
    assert "gallery-hammer" not in page


def test_a_picture_that_can_not_be_small_is_refused_and_removed(filmed, monkeypatch, capsys):
    folder, words, _ = filmed
    monkeypatch.setattr(gallery, "LIMIT", 1000)
    assert gallery.main(words) == 2
    assert "gallery-hammer.webp must be below" in capsys.readouterr().err
    assert not list((folder / "images").iterdir())
    assert (folder / "gallery.md").read_text() == PAGE


@pytest.mark.parametrize(
    ("change", "said"),
    [(("--tasks", "hamer"), "tasks must be among hammer-v3"), (("--keeps", "nowhere"), "must be a run directory")],
)
def test_mistakes_are_one_clear_line(filmed, change, said, capsys):
    _, words, _ = filmed
    assert gallery.main([*words, *change]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
