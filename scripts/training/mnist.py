"""Read MNIST from its IDX files.

An IDX file holds two zero bytes, a type (8: unsigned bytes), the number of dimensions, the size of each dimension as
four big-endian bytes, and the elements. Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

UNSIGNED_BYTES = 8
FILES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
SIDE = 28
MOST_BYTES = 2**30


class Damaged(Exception):
    """A file is missing or is not an IDX file of MNIST; the message names the file and the reason."""


def load(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the files in a folder: training images and labels, test images and labels.

    Images have shape (n, 28, 28, 1) and float64 values 0 to 255; labels have shape (n,) and int64 values 0 to 9.

    Raises Damaged.
    """
    images, labels, test_images, test_labels = (_read(_path(folder, name)) for name in FILES)
    _check("train", images, labels, folder)
    _check("t10k", test_images, test_labels, folder)
    return (
        images[..., None].astype(np.float64),
        labels.astype(np.int64),
        test_images[..., None].astype(np.float64),
        test_labels.astype(np.int64),
    )


def _check(name: str, images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
        raise Damaged(f"{folder}: {name} images are {images.shape}, (n, {SIDE}, {SIDE}) needed")
    if not len(images):
        raise Damaged(f"{folder}: no {name} images in the file")
    if labels.shape != images.shape[:1]:
        raise Damaged(f"{folder}: {len(images)} {name} images with labels {labels.shape}")
    if labels.max() > 9:
        raise Damaged(f"{folder}: {name} label {labels.max()}, 0 to 9 needed")


def _path(folder: Path, name: str) -> Path:
    """Return the file whose name ends in -idx3-ubyte or .idx3-ubyte, with or without .gz. Raises Damaged."""
    paths = sorted(folder.glob(f"{name}[-.]idx?-ubyte*"))
    if not paths:
        raise Damaged(f"{folder}: no {name}-idx?-ubyte or {name}-idx?-ubyte.gz there")
    return paths[0]


def _read(path: Path) -> np.ndarray:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(f"{path}: {error}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTES:
        raise Damaged(f"{path}: no IDX file of unsigned bytes, which begins with 0, 0, 8")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise Damaged(f"{path}: ends within its sizes")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != prod(shape):
        raise Damaged(f"{path}: {prod(shape)} elements announced, {len(content) - start} there")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
