"""What docs/images.md shows is run as it stands, only shorter."""

import re
from pathlib import Path

import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
SHORTER = {"steps=200": "steps=1", "replay_samples=400, fisher_samples=512": "replay_samples=4, fisher_samples=4"}
SHORTER |= {
    "channels=(16, 32)": "channels=(8, 8)",
    "batch_size=64": "batch_size=4",
    "ImagesConfig(": "ImagesConfig(scores=FEW, ",
    "clip_range": "replay_steps=2, clip_range",
}


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    from trcl_policy.images.settings import ImageScores

    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    for long, short in SHORTER.items():
        assert long in code
        code = code.replace(long, short)
    monkeypatch.chdir(tmp_path)
    few = ImageScores(samples=10, epochs=1, bootstrap=2)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page", "FEW": few})  # our own documentation
    assert Image.open(tmp_path / "digits.png").size == (8 * 50 - 2, 10 * 50 - 2)
    assert capsys.readouterr().out.startswith("feature distance TaskScore(distance=")
