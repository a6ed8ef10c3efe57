"""Read MNIST from its IDX files.

An IDX file: two zero bytes, a type (8: unsigned bytes), the number of dimensions, each of them as four bytes, big
end first, then the elements. Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
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
    """A file is missing or is no IDX file of MNIST; the message says which and why."""


def mnist(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 28, 28, 1) in float64 and labels (n,) in int64: to learn from, and to test with.

    Raises Damaged.
    """
    images, labels, test_images, test_labels = (_read(_path(folder, name)) for name in FILES)
    for name, some, their in (("train", images, labels), ("t10k", test_images, test_labels)):
        if some.ndim != 3 or some.shape[1:] != (SIDE, SIDE):
            raise Damaged(f"{folder}: {name} images are {some.shape}, (n, {SIDE}, {SIDE}) needed")
        if not len(some):
            raise Damaged(f"{folder}: no {name} images in the file")
        if their.shape != some.shape[:1]:
            raise Damaged(f"{folder}: {len(some)} {name} images with labels {their.shape}")
        if their.size and their.max() > 9:
            raise Damaged(f"{folder}: {name} label {their.max()}, 0 to 9 needed")
    return (
        images[..., None].astype(np.float64),
        labels.astype(np.int64),
        test_images[..., None].astype(np.float64),
        test_labels.astype(np.int64),
    )


def _path(folder: Path, name: str) -> Path:
    """The file, whose name ends in -idx3-ubyte or .idx3-ubyte, and perhaps .gz."""
    found = sorted(folder.glob(f"{name}[-.]idx?-ubyte*"))
    if not found:
        raise Damaged(f"{folder}: no {name}-idx?-ubyte or {name}-idx?-ubyte.gz there")
    return found[0]


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
