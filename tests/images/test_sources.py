"""Every source gives the same images; every fault is one line."""

import gzip
import io
import json
import struct
import sys
import types

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from trcl_policy.files import FileError
from trcl_policy.images.labelled import Format, Labelled
from trcl_policy.images.settings import ImageData
from trcl_policy.images.sources import read

RGB = Format(size=4, channels=3)
GREY = Format(size=4, channels=1)
BYTES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
LABELS = np.array([0, 0, 1, 1, 2, 2])


def wanted(images=BYTES):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)) / 127.5 - 1


def source(name, path, form=RGB, **options):
    return ImageData(source=name, path=str(path), form=form, **options)


def png(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


def write_folder(root):
    for number, (array, label) in enumerate(zip(BYTES, LABELS, strict=True)):
        (root / "abc"[label]).mkdir(parents=True, exist_ok=True)
        (root / "abc"[label] / f"{number}.png").write_bytes(png(array))
    (root / "readme.txt").write_text("no class")


def write_npz(path, **arrays):
    np.savez(path, **{"image": BYTES, "label": LABELS, "names": np.array(["a", "b", "c"]), **arrays})


def write_zarr(path):
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    for key, array in (("image", BYTES.transpose(0, 3, 1, 2)), ("label", LABELS)):
        group.create_array(key, data=array)


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(root, zipped=False):
    root.mkdir(exist_ok=True)
    for name, array in (("train-images-idx3", BYTES[..., 0]), ("train-labels-idx1", LABELS.astype(np.uint8))):
        content = idx_bytes(np.ascontiguousarray(array))
        path = root / f"{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)


def check(found, images, names="abc"):
    torch.testing.assert_close(found.images, images, rtol=0, atol=1e-6)
    assert found.labels.tolist() == LABELS.tolist()
    assert found.names == tuple(names)


def test_folder_of_class_folders(tmp_path):
    write_folder(tmp_path)
    check(read(source("folder", tmp_path)), wanted())
    grey = [np.asarray(Image.fromarray(array).convert("L")) for array in BYTES]
    found = read(source("folder", tmp_path, GREY)).images
    torch.testing.assert_close(found, wanted(np.stack(grey)[..., None]), rtol=0, atol=1e-6)


def test_array_files(tmp_path):
    write_npz(tmp_path / "a.npz")
    check(read(source("arrays", tmp_path / "a.npz")), wanted())
    write_npz(tmp_path / "b.npz", image=wanted().numpy(), label=np.array(list("aabbcc")))
    check(read(source("scenes", tmp_path / "b.npz")), wanted())
    write_zarr(tmp_path / "c.zarr")
    check(read(source("arrays", tmp_path / "c.zarr")), wanted(), "012")
    one = np.ascontiguousarray(BYTES[..., 0])
    np.savez(tmp_path / "d.npz", x=one, y=LABELS)
    found = read(source("arrays", tmp_path / "d.npz", GREY, image_key="x", label_key="y"))
    check(found, wanted(one[..., None]), "012")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files(tmp_path, zipped):
    write_idx(tmp_path, zipped)
    check(read(source("idx", tmp_path, GREY)), wanted(BYTES[..., :1]), "012")
    check(read(source("idx", tmp_path, RGB)), wanted(BYTES[..., :1]).expand(-1, 3, -1, -1), "012")


@pytest.mark.parametrize(("version", "lead", "names"), [("cifar10", 1, 10), ("cifar100", 2, 100)])
def test_cifar_in_its_binary_version(tmp_path, version, lead, names):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32), np.uint8)
    labels = np.array([3, 0, 9, 1], np.uint8)
    rows = [bytes([19] * (lead - 1) + [label]) + image.tobytes() for label, image in zip(labels, pixels, strict=True)]
    files = {"cifar10": ["data_batch_1.bin", "data_batch_2.bin"], "cifar100": ["train.bin"]}[version]
    for name, part in zip(files, np.array_split(np.arange(4), len(files)), strict=True):
        (tmp_path / name).write_bytes(b"".join(rows[n] for n in part))
    found = read(source(version, tmp_path, Format(size=32, channels=3)))
    torch.testing.assert_close(found.images, torch.from_numpy(pixels).float() / 127.5 - 1)
    assert found.labels.tolist() == labels.tolist()
    assert found.names == tuple(map(str, range(names)))


def test_parquet_with_the_names_that_datasets_writes(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    features = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    rows = {"image": [{"bytes": png(a), "path": None} for a in BYTES], "label": LABELS.tolist()}
    parquet.write_table(pyarrow.table(rows).replace_schema_metadata(metadata), tmp_path / "x.parquet")
    check(read(source("parquet", tmp_path / "x.parquet")), wanted())
    check(read(source("parquet", tmp_path)), wanted())
    with pytest.raises(ValueError, match="must have the columns img, got image, label"):
        read(source("parquet", tmp_path, image_key="img"))


def test_hugging_face_data_sets_by_name(monkeypatch):
    class ClassLabel:
        names = ("a", "b", "c")

    class Rows(dict):
        features = {"image": None, "label": ClassLabel()}  # noqa: RUF012

    def load_dataset(name, split):
        assert (name, split) == ("someone/shapes", "test")
        return Rows(image=[Image.fromarray(a) for a in BYTES], label=LABELS.tolist())

    stub = types.SimpleNamespace(load_dataset=load_dataset, ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    check(read(source("huggingface", "someone/shapes", part="test")), wanted())


def test_missing_packages_are_named(monkeypatch):
    for package, name in (("datasets", "huggingface"), ("pyarrow", "parquet"), ("sklearn.datasets", "digits")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ValueError, match=f"source {name} needs .* is not installed: pip install"):
            read(source(name, "x"))


def test_digits_come_with_scikit_learn():
    found = read(ImageData())
    assert found.images.shape == (1797, 1, 8, 8)
    assert (float(found.images.min()), float(found.images.max())) == (-1, 1)
    assert found.labels.bincount().min() > 170
    assert found.names == tuple("0123456789")


def test_images_are_resized_as_said(tmp_path):
    big = np.random.default_rng(2).integers(0, 256, (8, 8), np.uint8)
    write_npz(tmp_path / "a.npz", image=big[None], label=LABELS[:1])
    plain = torch.from_numpy(big.astype(np.float64)) / 127.5 - 1

    def resized(how):
        return read(source("arrays", tmp_path / "a.npz", Format(4, 1, how))).images[0, 0].double()

    torch.testing.assert_close(resized("area"), plain.view(4, 2, 4, 2).mean((1, 3)), rtol=0, atol=1e-6)
    for how, kind in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        pil = np.asarray(Image.fromarray(big).resize((4, 4), kind), np.float64)
        torch.testing.assert_close(resized(how), torch.from_numpy(pil) / 127.5 - 1, rtol=0, atol=2 / 127.5)
    assert resized("bicubic").abs().max() <= 1
    wide = np.concatenate([np.zeros((8, 3), np.uint8), big, np.zeros((8, 4), np.uint8)], 1)
    write_npz(tmp_path / "b.npz", image=wide[None], label=LABELS[:1])
    found = read(source("arrays", tmp_path / "b.npz", Format(8, 1, crop=True))).images[0, 0].double()
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"b.npz must be square, or crop true, got 15 x 8 pixels"):
        read(source("arrays", tmp_path / "b.npz", GREY))


def damage_idx(root, **changes):
    write_idx(root)
    images = root / "train-images-idx3-ubyte"
    content = bytearray(images.read_bytes())
    if "magic" in changes:
        content[2] = changes["magic"]
    images.write_bytes(bytes(content[: len(content) - changes.get("cut", 0)]))


def cut_png(root):
    write_folder(root)
    path = root / "a" / "0.png"
    path.write_bytes(path.read_bytes()[:60])


def text_png(root):
    write_folder(root)
    (root / "b" / "9.png").write_text("no image")


FAULTS = {
    "magic number": ("idx", lambda p: damage_idx(p, magic=9), "must begin with the magic number 00 00 08 0d"),
    "short idx": ("idx", lambda p: damage_idx(p, cut=1), r"must hold 96 bytes for shape \(6, 4, 4\), got 95"),
    "no idx": ("idx", lambda p: None, "path must be a folder with train-images-idx3-ubyte"),
    "bad gzip": (
        "idx",
        lambda p: (write_idx(p, True), (p / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b123")),
        "must be a whole gzip file",
    ),
    "fewer labels": (
        "idx",
        lambda p: (write_idx(p), (p / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(5, np.uint8)))),
        "labels must be as many as images = 6, got 5",
    ),
    "short cifar": ("cifar10", lambda p: (p / "data_batch_1.bin").write_bytes(b"1" * 99), "whole rows of 3073 bytes"),
    "pickled cifar": ("cifar10", lambda p: (p / "data_batch_1").write_bytes(b"1"), "binary version of cifar10"),
    "cifar labels": (
        "cifar10",
        lambda p: (p / "data_batch_1.bin").write_bytes(b"\x0a" + bytes(3072)),
        "must be below 10, got 10",
    ),
    "no folder": ("folder", lambda p: None, "path must be a folder with one folder a class"),
    "empty class": ("folder", lambda p: (p / "a").mkdir(), r"a must hold images \(.png, .* got none"),
    "cut image": ("folder", cut_png, "0.png must be a whole image"),
    "text": ("folder", text_png, "9.png must be a whole image, got one with a fault: cannot identify"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_folders_are_one_line(tmp_path, fault):
    name, harm, message = FAULTS[fault]
    harm(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read(source(name, tmp_path, Format(size=4, channels=1)))
    assert "\n" not in str(caught.value)


ARRAYS = {
    "objects": ({"label": np.array([0, None], object)}, "npz file of plain arrays"),
    "labels": ({"label": np.array([0, 0, 1, 1, 2, 3])}, r"labels must be in \[0, 3\), got 0 to 3"),
    "negative labels": ({"label": LABELS - 1}, r"labels must be in \[0, 3\), got -1 to 1"),
    "fewer": ({"label": LABELS[:5]}, "labels must be as many as images = 6, got 5"),
    "real labels": ({"label": LABELS * 0.5}, "must be whole numbers or texts, got float64"),
    "two labels": ({"label": np.stack([LABELS, LABELS])}, r"must be \(N,\), got \(2, 6\)"),
    "five channels": ({"image": np.zeros((6, 5, 4, 4), np.uint8)}, "must have 1 or 3 channels, got 5"),
    "a flat list": ({"image": np.zeros((6, 16), np.uint8)}, r"must be \(N, H, W\), .* got \(6, 16\)"),
    "shorts": ({"image": np.zeros((6, 4, 4), np.int16)}, r"must be bytes or floats in \[-1, 1\], got int16"),
    "too bright": ({"image": np.full((6, 4, 4), 2.0)}, r"images must be in \[-1, 1\]"),
    "not numbers": ({"image": np.full((6, 4, 4), np.nan)}, r"images must be in \[-1, 1\]"),
}


@pytest.mark.parametrize("fault", ARRAYS)
def test_wrong_arrays_are_one_line(tmp_path, fault):
    arrays, message = ARRAYS[fault]
    write_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read(source("arrays", tmp_path / "a.npz", GREY))
    assert "\n" not in str(caught.value)


def test_missing_arrays_and_files_are_named(tmp_path):
    write_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"must hold pictures, got image, label, names"):
        read(source("arrays", tmp_path / "a.npz", image_key="pictures"))
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"b\.npz must be an npz file of plain arrays"):
        read(source("arrays", tmp_path / "b.npz"))
    with pytest.raises(FileError, match=r"can't read .*/c.npz: no such file"):
        read(source("arrays", tmp_path / "c.npz"))
    with pytest.raises(ValueError, match="must be an npz file or a zarr folder"):
        read(source("arrays", tmp_path / "d.zarr"))
    (tmp_path / "e.zarr").mkdir()
    with pytest.raises(ValueError, match=r"e.zarr must be a zarr group of arrays"):
        read(source("arrays", tmp_path / "e.zarr"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageData(source="mnist"), "source must be one of digits, .*, got 'mnist'"),
        (lambda: ImageData(source="idx"), "path must name the data of source idx, got nothing"),
        (lambda: ImageData(held_out=0.0), r"held_out must be a share in \(0, 1\), got 0"),
        (lambda: Format(channels=2), r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        (lambda: Format(resize="box"), "resize must be one of bilinear, .* got 'box'"),
        (lambda: Labelled(torch.zeros(0, 1, 2, 2), torch.zeros(0), ("a",)), "images must be at least one, got none"),
    ],
)
def test_impossible_settings_are_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()
