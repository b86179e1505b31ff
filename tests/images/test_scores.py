"""The classifier is frozen and cached; scores rank generators as they should."""

from dataclasses import replace

import pytest
import torch

from tests.images.small import blob_tasks, generator, make_generator
from trcl_policy.files import read_safetensors, write_safetensors
from trcl_policy.images import classifier as classifiers
from trcl_policy.images import scores
from trcl_policy.images.classifier import ClassifierSettings, classifier
from trcl_policy.images.inception import inception_features, load_inception
from trcl_policy.images.scores import Scorer
from trcl_policy.images.settings import ImageScores

SETTINGS = ClassifierSettings(num_classes=4, channels=1, size=8, features=4, width=4, epochs=40, seed=0)


def config(folder, **options):
    fast = {"samples": 24, "features": 4, "width": 4, "epochs": 40, "neighbours": 3, "bootstrap": 20}
    return ImageScores(**{**fast, "cache": str(folder), **options})


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return Scorer(blob_tasks(per_class=40), config(tmp_path_factory.mktemp("cache")))


def test_the_classifier_learns_is_cached_and_frozen(tmp_path, monkeypatch):
    tasks = blob_tasks(per_class=40)
    first = classifier(SETTINGS, tasks.train, tasks.held_out, tmp_path)
    assert first.accuracy > 0.95
    assert [path.stem for path in tmp_path.iterdir()] == [first.fingerprint]
    torch.testing.assert_close(first.features(tasks.train.images).std(0), torch.ones(4).double(), rtol=1e-5, atol=0)
    monkeypatch.setattr(classifiers, "_train", None)  # would be called
    again = classifier(SETTINGS, tasks.train, tasks.held_out, tmp_path)
    images = tasks.held_out.images
    assert torch.equal(again.features(images), first.features(images))
    assert (again.accuracy, again.features(images).dtype) == (first.accuracy, torch.float64)
    assert not any(p.requires_grad for p in again.network.parameters())


def test_the_fingerprint_follows_settings_images_and_labels():
    tasks = blob_tasks()
    mark = classifiers.fingerprint(SETTINGS, tasks.train, tasks.held_out)
    assert mark == classifiers.fingerprint(SETTINGS, tasks.train, tasks.held_out)
    images = tasks.train.images.clone()
    images[0, 0, 0, 0] += 0.001
    others = [
        classifiers.fingerprint(replace(SETTINGS, seed=1), tasks.train, tasks.held_out),
        classifiers.fingerprint(SETTINGS, replace(tasks.train, images=images), tasks.held_out),
        classifiers.fingerprint(SETTINGS, replace(tasks.train, labels=tasks.train.labels.flip(0)), tasks.held_out),
        classifiers.fingerprint(SETTINGS, tasks.train, tasks.held_out.rows(torch.arange(5))),
    ]
    assert len({mark, *others}) == 5


def test_a_damaged_cache_is_named(tmp_path):
    tasks = blob_tasks()
    settings = replace(SETTINGS, epochs=1)
    mark = classifier(settings, tasks.train, tasks.held_out, tmp_path).fingerprint
    path = tmp_path / f"{mark}.safetensors"
    weights, _ = read_safetensors(path)
    write_safetensors(path, weights)
    with pytest.raises(ValueError, match=f"{path} must be a classifier of these settings, got another"):
        classifier(settings, tasks.train, tasks.held_out, tmp_path)


def test_shifts_repeat_the_edge():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    found = classifiers._shifted(image, 1, -1)
    assert found[0, 0].tolist() == [[1, 2, 2], [1, 2, 2], [4, 5, 5]]


def test_real_images_score_better_than_noise_and_other_classes(scorer):
    tasks = scorer.tasks
    floor = scorer.floor(0)
    labels = torch.arange(2).repeat_interleave(20)
    noise = scorer.compare(torch.rand(40, 1, 8, 8, generator=generator()) * 2 - 1, labels, 0)
    other = scorer.compare(tasks.real(1, held_out=False).images, labels, 0)
    one = scorer.compare(tasks.real(0, held_out=False).images[:20].repeat(2, 1, 1, 1), labels, 0)
    for bad in (noise, other, one):
        assert bad.distance > 3 * floor.distance
        assert bad.kernel > floor.kernel
        assert bad.coverage < floor.coverage
    assert floor.accuracy > 0.95
    assert other.accuracy < 0.05
    assert one.recall < 0.7 < floor.recall
    for found in (floor, noise, other):
        assert found.distance_low <= found.distance <= found.distance_high
        assert found.kernel_low <= found.kernel <= found.kernel_high
        assert (found.num_real, found.num_made) == (40, 40)


def test_scoring_a_generator_is_seeded(scorer):
    made = make_generator()
    one, again = scorer.score(made, 1), scorer.score(made, 1)
    assert one == again
    assert one != scorer.score(made, 0)
    assert one != Scorer(scorer.tasks, replace(scorer.config, seed=1, epochs=1)).score(made, 1)
    assert one.num_made == 24
    assert set(one.to_json()) >= {"distance", "distance_low", "kernel", "coverage", "accuracy"}


def test_accuracy_of_task_labels_counts_any_class_of_the_task(scorer):
    tasks = blob_tasks("task", per_class=40)
    found = Scorer(tasks, scorer.config).floor(1)
    assert found.accuracy > 0.95
    wrong = Scorer(tasks, scorer.config).compare(tasks.real(1, held_out=True).images, torch.zeros(40).long(), 1)
    assert wrong.accuracy < 0.05


class Extractor(torch.nn.Module):
    """Stands in for Inception: means of the four quarters of each colour."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return (torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1),)


def test_only_inception_features_are_called_fid(scorer, tmp_path, monkeypatch):
    assert scorer.name == "feature distance"
    weights = tmp_path / "weights.pth"
    with pytest.raises(ValueError, match="inception must be a file with torch-fidelity's Inception weights, got"):
        Scorer(scorer.tasks, config(tmp_path, inception=str(weights)))
    weights.touch()
    monkeypatch.setattr(scores, "load_inception", lambda path: Extractor())
    fid = Scorer(scorer.tasks, replace(scorer.config, inception=str(weights)))
    assert fid.name == "FID"
    assert fid.floor(0).distance != scorer.floor(0).distance
    images = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    wanted = torch.tensor([0.0, 128.0, 255.0]).double()[:, None].expand(3, 12)
    assert torch.equal(inception_features(Extractor(), images), wanted)


def test_inception_weights_go_to_torch_fidelity(tmp_path, monkeypatch):
    import sys
    import types

    calls = []

    class Stub(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            calls.append((features, feature_extractor_weights_path))

    path = tmp_path / "w.pth"
    path.touch()
    module = "torch_fidelity.feature_extractor_inceptionv3"
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(FeatureExtractorInceptionV3=Stub))
    assert not load_inception(path).training
    assert calls == [(["2048"], str(path))]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="inception needs torch-fidelity, which is not installed"):
        load_inception(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbours": 12}, "neighbours must be below samples and the held-out images of 1:a.b, 24 and 12, got 12"),
        ({"bootstrap": 0}, "bootstrap must be >= 1, got 0"),
        ({"samples": 1}, "samples must be >= 2, got 1"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_impossible_settings_are_one_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Scorer(blob_tasks(), config(tmp_path, **options))
