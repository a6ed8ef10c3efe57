"""Test training on digits: scikit-learn's, and files in the format of MNIST."""

import subprocess
import sys

import pytest

from scripts.training import learn
from tests.checkout import ROOT
from tests.test_idx import write_mnist


@pytest.mark.parametrize("row", ["numpy.inplace", "torch.inplace"])
def test_training_reaches_the_required_accuracy(row):
    curve = learn.accuracies(row, learn.data(None), epochs=8)
    assert curve[-1] >= learn.LEAST_ACCURACY
    assert curve[0] < curve[-1]


def test_training_and_test_images_are_disjoint():
    images, labels, test_images, test_labels = learn.data(None)
    assert len(images) == len(labels) > 4 * len(test_images) - 4 == 4 * len(test_labels) - 4
    assert not {image.tobytes() for image in test_images} & {image.tobytes() for image in images}
    assert (images.mean(), images.std()) == pytest.approx((0, 1))


def test_mnist_files_are_accepted(tmp_path):
    write_mnist(tmp_path, train=128, test=16)
    process = run("--mnist", str(tmp_path), "--epochs", "1", "--row", "numpy.inplace")
    assert process.returncode == 0, process.stderr
    assert 0 <= float(process.stdout.strip("[]\n")) <= 1


def test_missing_mnist_files_are_refused(tmp_path):
    process = run("--mnist", str(tmp_path))
    assert process.returncode == 2
    assert "no train-images" in process.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.training.learn", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
