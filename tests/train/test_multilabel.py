"""Training with several labels: estimates against NumPy and torchmetrics, the command line, a run that is resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.train.test_module import trainer
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_exact_match

from layershift.cli import main
from layershift.monitor import open_store
from layershift.train import train
from layershift.train.config import Config
from layershift.train.data import DigitPairsData
from layershift.train.fit import build_learner
from layershift.train.folder import folder_of
from layershift.train.models import small_cnn
from layershift.train.multilabel import MultiLabelClassifier

CONFIG = Config(
    data="digit_pairs",
    model="small_cnn",
    model_options={"widths": [8, 8], "strides": [2, 1]},
    batch_size=500,
    scale="smoke",
    epochs=3,
    every=0,
)


def test_estimates_are_those_of_the_network() -> None:
    data = DigitPairsData()
    module = MultiLabelClassifier(small_cnn(norm="batch", widths=(8, 8), strides=(2, 1), seed=0), learning_rate=0.02)
    run = trainer(2)
    run.fit(module, datamodule=data)
    run.test(module, datamodule=data, verbose=False)
    module.eval()
    for part in ("val", "test"):
        x, y = data.parts[part]
        with torch.no_grad():
            p = module(data.prepare(x)).sigmoid().double().numpy()
        t = y.numpy()
        losses = -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(1)
        said, n = p > 0.5, len(t)
        match = (said == t).all(1)
        hits = (said & (t == 1)).sum()
        expected = {
            "loss": (losses.mean(), losses.std(ddof=1) / n**0.5),
            "label_accuracy": ((said == t).mean(), (said == t).mean(1).std(ddof=1) / n**0.5),
            "accuracy": (match.mean(), match.std() / n**0.5),
            "of1": (2 * hits / (said.sum() + t.sum()), None),
        }
        for name, (value, stderr) in expected.items():
            found = module.estimates[f"{part}/{name}"]
            assert float(found.value) == pytest.approx(value, rel=1e-4), name
            assert stderr is None or float(found.stderr) == pytest.approx(stderr, rel=1e-3, abs=1e-6), name
            assert found.n == n
        probabilities, targets = torch.from_numpy(p).float(), y.int()
        theirs = multilabel_average_precision(probabilities, targets, 10)
        assert float(module.estimates[f"{part}/map"].value) == pytest.approx(float(theirs), rel=1e-4)
        exact = multilabel_exact_match(probabilities, targets, 10)
        assert float(module.estimates[f"{part}/accuracy"].value) == pytest.approx(float(exact), rel=1e-5)
    assert 0 < float(module.estimates["train/loss"].value) < 10 * np.log(2)


def test_the_loss_is_that_of_independent_labels() -> None:
    module = MultiLabelClassifier(torch.nn.Identity())
    x, y = torch.randn(5, 3), torch.randint(2, (5, 3)).float()
    p = torch.where(y == 1, x.sigmoid(), 1 - x.sigmoid())
    torch.testing.assert_close(module.training_step((x, y)), -p.prod(1).log().mean())


def test_the_learner_of_data_with_several_labels() -> None:
    assert isinstance(build_learner(CONFIG.resolved(), "multi_label", small_cnn(), None), MultiLabelClassifier)


@pytest.mark.slow
def test_the_command_line_trains_and_reports(tmp_path, capsys) -> None:
    options = [
        "--data",
        "digit_pairs",
        "--model",
        "small_cnn",
        "--method",
        "batch",
        "--scale",
        "smoke",
        "--epochs",
        "1",
    ]
    assert main(["train", *options, "--out", str(tmp_path), "--quiet", "every=16"]) in (None, 0)
    assert "batch, seed 0: test accuracy" in capsys.readouterr().out
    with open_store(tmp_path / "batch" / "seed0" / "run.db") as store:
        records = store.records()
    names = {r.measure for r in records if r.layer == ""}
    scores = {f"{part}/{n}" for part in ("val", "test") for n in ("accuracy", "label_accuracy", "cf1", "of1", "map")}
    assert scores | {"train/loss", "val/loss", "test/loss"} <= names
    assert "normality" in {r.measure for r in records}
    assert main(["report", str(tmp_path)]) in (None, 0)
    page = (tmp_path / "report.html").read_text()
    assert "Test accuracy" in page


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path) -> None:
    def interrupt(epochs: int, accuracy: float) -> None:
        if epochs == 2:
            raise KeyboardInterrupt

    train(CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "parts", progress=interrupt)
    assert train(CONFIG, tmp_path / "parts", resume=True).state == "interrupted"
    folders = [folder_of(CONFIG, tmp_path / name) for name in ("whole", "parts")]
    whole, parts = (torch.load(folder.last, weights_only=True)["state_dict"] for folder in folders)
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    numbers = []
    for folder in folders:
        with open_store(folder.store) as store:
            numbers.append([r[:4] for r in store.records() if not r.measure.endswith("seconds")])
    assert numbers[0] == numbers[1]
    assert {"val/accuracy", "val/map", "test/of1"} <= {r[2] for r in numbers[0]}


def test_scales_need_one_class_each(tmp_path) -> None:
    config = Config(data="digit_pairs", model="small_cnn", scale="smoke", test_scales=[8])
    with pytest.raises(ValueError, match="test_scales: expected none for data whose samples are not of one class each"):
        train(config, tmp_path)
