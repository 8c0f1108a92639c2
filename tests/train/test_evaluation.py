"""Testing at several scales: the records are what the scores say, and the network is left as it was."""

from __future__ import annotations

import pytest
import torch

from layershift.train.evaluation import multi_scale_records, side_of
from layershift.train.models import small_cnn
from layershift.train.models.multiscale import crop_scores, dense_scores

SCALES = (8, 10, 12)


def test_records_are_the_shares_of_right_answers() -> None:
    torch.manual_seed(0)
    model = small_cnn(norm="unitization", seed=0).train()
    batches = [(torch.randn(40, 1, 9, 11), torch.randint(10, (40,))) for _ in range(2)]
    records = {r.measure: r for r in multi_scale_records(model, batches, scales=SCALES, side=8, step=7)}
    assert model.training
    assert {r.step for r in records.values()} == {7}

    model.eval()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for form, scores in (
        ("crops", crop_scores(model, x, scales=SCALES, crop=8)),
        ("convolutional", dense_scores(model, x, scales=SCALES, train_size=8)),
    ):
        first = scores.argmax(1).eq(y).double()
        five = (scores >= scores.topk(5).values[:, -1:]).gather(1, y.unsqueeze(1)).double()
        for name, right in ((f"{form}/accuracy", first), (f"{form}/accuracy5", five)):
            record = records[name]
            assert record.value == pytest.approx(right.mean().item(), abs=1e-6)
            assert record.stderr == pytest.approx(right.std().item() / 80**0.5, rel=1e-4)
            assert record.n == 80
            assert "8, 10, 12" in record.estimator


def test_the_side_is_that_of_square_images() -> None:
    assert side_of({"in_channels": 3, "in_features": 3 * 224 * 224, "num_classes": 5}) == 224
