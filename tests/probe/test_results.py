"""The folder of results: every table from its function, pictures, hostile names, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

from layershift.functional import label_cost
from layershift.probe.depth import adjacent_table, depth_table, epoch_table, sample_distances
from layershift.probe.difficulties import difficulty
from layershift.probe.gallery import thumbnail
from layershift.probe.outputs import LayerOutputs
from layershift.probe.over_thinking import overthinking
from layershift.probe.results import score_rows, write_results
from layershift.report.probe.data import FORMAT, read_results

K, LABELS = 4, ("cat", "dog", "</script>", "x" * 300)
COST = label_cost(torch.randn(K, 3, generator=torch.Generator().manual_seed(0)))
COST = COST / COST.max()


def made(n: int = 40, seed: int = 0, task: str = "multi_label", ids=None, layers: int = 4) -> LayerOutputs:
    g = torch.Generator().manual_seed(seed)
    targets = torch.eye(K, dtype=torch.bool)[torch.randint(K, (n,), generator=g)]
    if task == "multi_label":
        targets |= torch.rand(n, K, generator=g) < 0.3
    depth = torch.linspace(0, 3, layers)[:, None, None]
    logits = torch.randn(layers, n, K, generator=g) + depth * (2 * targets.float() - 1)
    p = logits.sigmoid() if task == "multi_label" else logits.softmax(-1)
    names = (*(f"conv{k}" for k in range(layers - 1)), "output")
    return LayerOutputs(names, p, targets, task, LABELS, ids or tuple(f"../{i}.jpg" for i in range(n)))


def written(folder, outputs=None, **options) -> dict:
    outputs = outputs or {"train": made(), "test": made(30, 1)}
    return json.loads(write_results(folder, outputs, COST, **options).read_text())


@pytest.fixture(scope="module")
def history() -> dict[int, LayerOutputs]:
    return {epoch: made(20, epoch) for epoch in (0, 1, 4)}


def test_every_table_is_that_of_its_function(tmp_path, history) -> None:
    test = made(30, 1)
    found = written(tmp_path, history=history)
    rows = [row for row in found["depth"] if (row["split"], row["method"]) == ("test", "auto")]
    keys = ("layer", "mean", "stderr", "n", "left_out", "estimator")
    assert [tuple(row[key] for key in keys) for row in rows] == [tuple(row) for row in depth_table(test, COST)]
    assert len(found["depth"]) == 2 * 3 * 4
    assert [row["mean"] for row in found["epochs"]] == [row.mean for row in epoch_table(history, COST)]
    assert [row["mean"] for row in found["adjacent"]] == [row.mean for row in adjacent_table(history, COST)]
    over = overthinking(test)
    assert found["overthinking"]["rows"] == [row._asdict() for row in over.rows]
    assert (found["overthinking"]["ideal"], found["overthinking"]["n"]) == (over.ideal, 30)
    kinds = difficulty(sample_distances(test, COST))
    assert found["difficulty"]["counts"] == kinds.counts()
    assert found["difficulty"]["thresholds"] == kinds.thresholds
    assert found["difficulty"]["early"] == ["conv0"]
    shown = {kind: [row["id"] for row in found["gallery"] if row["kind"] == kind] for kind in ("easy", "hard")}
    assert shown == {kind: [test.ids[i] for i in kinds.typical(kind, 6)] for kind in shown}


def test_scores_are_scikit_learns_for_either_task() -> None:
    for task in ("multi_label", "single_label"):
        outputs = made(60, 3, task)
        truth, said = outputs.targets.numpy(), outputs.predictions().numpy()
        for k, row in enumerate(score_rows("test", outputs)):
            assert row["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said[k]))
            assert row["of1"] == pytest.approx(metrics.f1_score(truth, said[k], average="micro", zero_division=0))
            expected = metrics.average_precision_score(truth, outputs.probabilities[k].numpy(), average="macro")
            assert row["map"] == pytest.approx(expected, rel=1e-5)


def test_the_reader_takes_what_was_written(tmp_path, history) -> None:
    about = {"model": "resnet18", "numbers": [1, 2.5], "folder": tmp_path}
    written(tmp_path, history=history, about=about, exits=[{"rule": {"kind": "x"}, "accuracy": torch.tensor(0.5)}])
    results = read_results(tmp_path)
    assert results.content["format"] == FORMAT
    assert (results.layers, results.main) == (["conv0", "conv1", "conv2", "output"], "test")
    assert results.content["about"]["folder"] == str(tmp_path)
    assert results.rows("exits") == [{"rule": {"kind": "x"}, "accuracy": 0.5}]
    again = LayerOutputs.load(tmp_path / "outputs" / "epoch4.npz")
    assert torch.equal(again.probabilities, history[4].probabilities)
    assert {p.name for p in (tmp_path / "outputs").iterdir()} >= {"train.npz", "test.npz", "epoch0.npz"}


def test_pictures_get_harmless_names_whatever_the_ids_are(tmp_path) -> None:
    asked = []

    def image(key: str) -> torch.Tensor | None:
        asked.append(key)
        return None if key.endswith("1.jpg") else torch.rand(3, 400, 300)

    found = written(tmp_path / "out", images=image)
    assert asked == [row["id"] for row in found["gallery"]]
    for row in found["gallery"]:
        assert (row["image"] is None) == row["id"].endswith("1.jpg")
        if row["image"]:
            with Image.open(tmp_path / "out" / row["image"]) as picture:
                assert picture.size == (144, 192)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_pictures_by_a_mapping_and_of_other_kinds() -> None:
    grey = thumbnail(torch.linspace(-2, 2, 64).view(8, 8))
    assert (grey.size, grey.getextrema()) == ((8, 8), ((0, 255),) * 3)
    same = thumbnail(torch.full((1, 5, 5), 7, dtype=torch.uint8))
    assert np.asarray(same).tolist() == [[[7, 7, 7]] * 5] * 5
    assert thumbnail(Image.new("RGBA", (10, 500))).size == (4, 192)
    assert np.asarray(thumbnail(torch.full((3, 2, 2), 0.5))).max() == 128
    with pytest.raises(ValueError, match=r"images: expected tensors of shape .*got shape \(2, 5, 5\)"):
        thumbnail(torch.rand(2, 5, 5))


def test_the_same_outputs_give_the_same_tables(tmp_path) -> None:
    first, second = (written(tmp_path / name) for name in "ab")
    del first["written"], second["written"]
    assert first == second


def test_numbers_that_are_not_finite_are_null(tmp_path) -> None:
    outputs = made(10)
    outputs.targets[:] = False
    text = write_results(tmp_path, {"test": outputs}, COST).read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["depth"][0]["mean"] is None
    assert "overthinking" not in found
    assert found["gallery"] == []


def test_an_output_alone_has_no_difficulty(tmp_path) -> None:
    found = written(tmp_path, {"test": made(layers=1)})
    assert "difficulty" not in found
    assert found["overthinking"]["rows"] == []


def test_few_samples_of_a_long_history_are_compared(tmp_path, history) -> None:
    found = written(tmp_path, history=history, history_samples=5)
    assert {row["n"] for row in [*found["epochs"], *found["adjacent"]]} == {5}
    outputs = history[0]
    few = sample_distances(outputs, COST)[:, [0, 4, 8, 12, 16]].mean(1)
    assert [row["mean"] for row in found["epochs"][:4]] == pytest.approx(few.tolist(), rel=1e-5)
    assert len(LayerOutputs.load(tmp_path / "outputs" / "epoch0.npz").targets) == 20
    with pytest.raises(ValueError, match="history_samples: expected a number of samples, 1 or more, or None, got 0"):
        written(tmp_path, history=history, history_samples=0)


def test_one_label_a_sample_works_as_well(tmp_path) -> None:
    outputs = made(30, 1, "single_label")
    found = written(tmp_path, {"test": outputs})
    last = found["scores"][-1]
    assert last["accuracy"] == pytest.approx(last["of1"]) == pytest.approx(float(outputs.correct()[-1].float().mean()))


def test_the_main_data_can_be_chosen(tmp_path) -> None:
    assert written(tmp_path, main="train")["overthinking"]["n"] == 40
    assert written(tmp_path, {"a": made(), "b": made(25)})["main"] == "b"


def test_messages_name_the_argument(tmp_path) -> None:
    with pytest.raises(ValueError, match="main: expected one of 'train', 'test', got 'val'"):
        written(tmp_path, main="val")
    with pytest.raises(ValueError, match=r"outputs: expected names of letters.*got '\.\./x'"):
        written(tmp_path, {"../x": made()})
    with pytest.raises(
        ValueError, match="outputs: expected the layers, labels and task of 'test', got others at 'train'"
    ):
        written(tmp_path, {"train": made(layers=3), "test": made()})
    with pytest.raises(ValueError, match="history: expected the layers, labels and task of 'test', got others at 3"):
        written(tmp_path, history={3: made(layers=2)})
    with pytest.raises(ValueError, match="outputs: expected outputs on at least one set of data, got none"):
        write_results(tmp_path, {}, COST)
    with pytest.raises(ValueError, match="methods: expected at least one distance"):
        written(tmp_path, methods=())
    assert not (tmp_path / "probe.json").exists()
