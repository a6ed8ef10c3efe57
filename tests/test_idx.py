"""Test reading of MNIST's files: damaged ones are refused with the file and the reason."""

import gzip
import struct

import numpy as np
import pytest

from scripts.training import mnist


def encoded(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, train, test):
    """Write random digits to four files and return them."""
    rng = np.random.default_rng(0)
    shapes = {
        "train-images": (train, 28, 28), "train-labels": (train,),
        "t10k-images": (test, 28, 28), "t10k-labels": (test,),
    }  # fmt: skip
    arrays = {name: rng.integers(0, 10, shape, dtype=np.uint8) for name, shape in shapes.items()}
    for name, array in arrays.items():
        (folder / f"{name}-idx{array.ndim}-ubyte").write_bytes(encoded(array))
    return arrays


@pytest.fixture
def arrays(tmp_path):
    return write_mnist(tmp_path, 5, 3)


@pytest.fixture
def folder(tmp_path, arrays):
    return tmp_path


def labels_file(folder):
    return folder / "train-labels-idx1-ubyte"


@pytest.mark.parametrize("zipped", [False, True])
def test_whole_files_are_read(folder, arrays, zipped):
    if zipped:
        for path in list(folder.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    images, labels, test_images, test_labels = mnist.load(folder)
    np.testing.assert_array_equal(images[..., 0], arrays["train-images"])
    np.testing.assert_array_equal(labels, arrays["train-labels"])
    np.testing.assert_array_equal(test_images[..., 0], arrays["t10k-images"])
    np.testing.assert_array_equal(test_labels, arrays["t10k-labels"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "5 elements announced, 4 there"),
        (lambda content: content + b"1", "5 elements announced, 6 there"),
        (lambda content: b"", "no IDX file"),
        (lambda content: b"\0\0\x0d" + content[3:], "no IDX file of unsigned bytes"),
        (lambda content: content[:6], "ends within its sizes"),
        (lambda content: b"\0\0\x08\xff", "ends within its sizes"),
        (lambda content: encoded(np.zeros(4, np.uint8)), "5 train images with labels"),
        (lambda content: encoded(np.full(5, 10, np.uint8)), "label 10, 0 to 9 needed"),
    ],
)
def test_damaged_file_is_refused(folder, damage, reason):
    path = labels_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(mnist.Damaged, match=reason):
        mnist.load(folder)


def test_broken_compression_is_refused(folder):
    path = labels_file(folder)
    whole = gzip.compress(path.read_bytes())
    path.unlink()
    for content in (whole[:-5], b"no gzip", whole[:12] + bytes(len(whole) - 12)):
        path.with_name(f"{path.name}.gz").write_bytes(content)
        with pytest.raises(mnist.Damaged, match="train-labels"):
            mnist.load(folder)


def test_missing_file_is_named(folder):
    labels_file(folder).unlink()
    with pytest.raises(mnist.Damaged, match="no train-labels"):
        mnist.load(folder)


def test_file_without_images_is_refused(tmp_path):
    write_mnist(tmp_path, 5, 0)
    with pytest.raises(mnist.Damaged, match="no t10k images"):
        mnist.load(tmp_path)
