"""Test training on digits: scikit-learn's, and files in the format of MNIST."""

import csv
import os
import re
import subprocess
import sys
import termios
from contextlib import closing

import pytest

from impls.catalog import find_step
from scripts.training import learn
from scripts.training.monitor import Monitor
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
    assert (process.returncode, process.stderr) == (0, "")
    assert 0 <= float(process.stdout.strip("[]\n")) <= 1


def test_missing_mnist_files_are_refused(tmp_path):
    process = run("--mnist", str(tmp_path))
    assert process.returncode == 2
    assert "no train-images" in process.stderr


# One of each framework, beside the reference.
ROWS = ("numpy.inplace", "numba.fresh", "torch.fresh", "jax-patches.fresh")


def test_the_monitor_observes_every_framework_alike(tmp_path, monkeypatch, capfd):
    write_mnist(tmp_path, train=64, test=16)
    monkeypatch.setattr(learn, "STEPS", [find_step(row) for row in ROWS])
    figure = tmp_path / "reports" / "learning.svg"
    options = ["--mnist", str(tmp_path), "--epochs", "2", "--monitor", "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", ["learn", *options])
    # Random labels cannot be learned.
    assert learn.main() == 1
    with figure.with_name("learning.monitor.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    observed = {
        (line["row"], int(line["epoch"]), line["layer"]): [
            float(line[name]) for name in ("mean", "std", "sparsity", "dead_share")
        ]
        for line in lines
    }
    places = [(epoch, layer) for epoch in (1, 2) for layer in ("conv1", "conv2")]
    assert list(observed) == [(row, *place) for row in ("reference", *ROWS) for place in places]
    for row in ROWS:
        for place in places:
            assert observed[row, *place] == pytest.approx(observed["reference", *place], rel=1e-3)
    # The numbers of one epoch, or of one layer, are not those of the other.
    assert len({tuple(observed["reference", *place]) for place in places}) == 4
    drawn = figure.with_name("learning.monitor.svg").read_text()
    texts = ("sparsity", "share of dead units", "epoch", "conv1", "conv2", "reference", *ROWS)
    assert [text for text in texts if f">{text}</text>" not in drawn] == []
    shown = capfd.readouterr().err
    assert all(f"{row}, epoch 2 of 2: mean loss " in shown for row in ("reference", *ROWS))
    shares = [observed[row, epoch, "conv2"][-1] for row in ("reference", *ROWS) for epoch in (1, 2)]
    assert 0 < max(shares) < 1
    assert re.findall(r"conv2 .*, (.*) of 64 units dead", shown) == [f"{64 * share:.0f}" for share in shares]
    # Not on a terminal: no bar and no control character.
    assert shown.replace("\n", "").isprintable()


def test_a_monitored_training_is_the_same_training():
    samples = tuple(part[:256] for part in learn.data(None))
    with closing(Monitor("numpy.inplace", learn.NETWORK, samples[0], 2, 4)) as monitor:
        monitored = learn.accuracies("numpy.inplace", samples, 2, monitor)
    assert monitored == learn.accuracies("numpy.inplace", samples, 2)


def test_a_terminal_shows_a_bar_with_epoch_and_loss(tmp_path):
    write_mnist(tmp_path, train=128, test=16)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    command = ["--mnist", str(tmp_path), "--epochs", "2", "--monitor", "--row", "numpy.inplace"]
    process = run(*command, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 2**16).decode()
    os.close(ours)
    assert process.returncode == 0, shown
    for text in ("numpy.inplace: ", "| 4/4 [", "epoch 2 of 2, loss "):
        assert text in shown


def run(*arguments: str, **outputs: int) -> subprocess.CompletedProcess[str]:
    """Run the command. outputs: where its stdout and stderr go, if the result is not to hold them."""
    command = [sys.executable, "-m", "scripts.training.learn", *arguments]
    return subprocess.run(
        command, text=True, cwd=ROOT, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | outputs
    )
