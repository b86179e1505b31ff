"""docs/forms.md is that of the stored runs; its differences are paired by seed; every form is a valid configuration."""

import json
import math

import pytest

from tests.scripts import FOLDER, script
from trcl_policy.config import load_config

forms, mapping = script("compare_forms"), script("map_trust_region")
ROOT = FOLDER.parent
CELL = "starved-300x4-w64"


def run(final, loss, seconds=30.0):
    return {"average_final": final, "forgetting_old": 0.25, "old_log_loss": math.log(loss), "seconds": seconds}


def stored(**found):
    made = {name: {"settings": dict(forms.FORMS[name]), "runs": runs} for name, runs in found.items()}
    return {"cell": vars(mapping.Cell.named(CELL)), "forms": made}


def test_the_page_is_that_of_the_stored_runs(capsys):
    assert forms.main(["--check"]) == 0, capsys.readouterr().out


def test_differences_from_distilled_replay_are_paired_by_seed():
    base = {"0": run(0.5, 0.2), "1": run(0.7, 0.2)}
    gains = {"0": run(0.6, 0.1, 50.0), "1": run(0.9, 0.2, 70.0), "2": run(0.0, 9.0)}
    table = forms.cell_table(stored(**{"replay": base, "trcl_diag-1": gains}))
    assert [row[0] for row in table.rows] == ["replay", "trcl_diag-1"]
    assert table.rows[0][1:4] == ("2", "0.60", "+0.25")
    middle, reach = 15.0, 12.7062 * 5  # t with one degree of freedom, standard error 10 / 2
    assert table.rows[1][1:3] == ("3", "0.50")
    assert table.rows[1][4] == f"{middle:+.1f} ({middle - reach:+.1f} to {middle + reach:+.1f})"
    assert table.rows[1][5].startswith(f"{-50 * math.log(2):+.1f} ")
    assert table.rows[1][6:] == ("–", "–", "50")


def test_the_form_that_finds_its_weight_is_paired_with_every_other():
    base = {"0": run(0.5, 0.2), "1": run(0.7, 0.2)}
    tuned = {"0": run(0.8, 0.1), "1": run(0.8, 0.2)}
    table = forms.cell_table(stored(**{"replay": base, "trcl-0.1": tuned}))
    assert table.rows[1][4:6] == table.rows[0][6:8]
    assert table.rows[0][6].startswith("+20.0 (")
    assert table.rows[0][4:6] == table.rows[1][6:8] == ("–", "–")


def test_every_form_is_a_valid_configuration_of_its_own():
    jobs = forms.make_jobs([CELL], None, 1, ROOT / "nowhere")
    assert len({job.folder for job in jobs}) == len(jobs) == len(forms.FORMS)
    for job in jobs:
        pairs = [word.partition("=") for word in job.settings]
        config = load_config(job.config, {key: json.loads(v) if v[0] in '["0123456789' else v for key, _, v in pairs})
        assert config.method.name == forms.FORMS[job.method]["method.name"]
        assert config.method.replay_samples == (384 if "384" in job.method else 32)


def test_runs_of_other_knobs_are_not_mixed_in(tmp_path):
    (job,) = forms.make_jobs([CELL], "trcl_diag-10", 1, tmp_path)
    assert not forms.is_stored(tmp_path, job)
    made = stored(**{"trcl_diag-10": {"0": run(0.5, 0.1)}})
    (tmp_path / f"{CELL}.json").write_text(json.dumps(made))
    assert forms.is_stored(tmp_path, job)
    made["forms"]["trcl_diag-10"]["settings"]["method.weight"] = 3.0
    (tmp_path / f"{CELL}.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match="name another --results"):
        forms.is_stored(tmp_path, job)


@pytest.mark.parametrize("words", [["--forms", "trcl_best"], ["--seeds", "0"], ["--cells", "starved"], ["--jobs", "0"]])
def test_mistakes_are_one_clear_line(words, capsys):
    assert forms.main([*words, "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
