"""The transformers callback, inside a real Trainer of a tiny GPT-2 with random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from layershift.integrations import TransformersMonitor  # noqa: E402
from layershift.monitor import Alarms, Threshold, open_store  # noqa: E402

BATCH, TOKENS = 4, 10


def network():
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=40, n_positions=TOKENS, **ends)
    return transformers.GPT2LMHeadModel(config)


def trainer(tmp_path, model, *callbacks, data=None, **options):
    if data is None:
        tokens = torch.randint(40, (48, TOKENS), generator=torch.Generator().manual_seed(0))
        data = [{"input_ids": row, "labels": row} for row in tokens]
    defaults = {"max_steps": 6, "save_strategy": "no", "logging_steps": 2, "gradient_accumulation_steps": 1}
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **defaults | options,
    )
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data[:8], callbacks=list(callbacks))


def monitor(tmp_path, **options) -> TransformersMonitor:
    return TransformersMonitor(
        **{"store": tmp_path / "run.db", "layers": "transformer.h.?", "every": 2, "budget": None} | options
    )


def records(tmp_path) -> list:
    with open_store(tmp_path / "run.db") as store:
        return store.records()


def sizes(tmp_path, layer: str = "transformer.h.1") -> dict[int, int]:
    return {r.step: r.n for r in records(tmp_path) if (r.layer, r.measure, r.unit) == (layer, "mean", None)}


def hooks(model: nn.Module) -> int:
    return sum(
        type(hook).__module__.startswith("layershift")
        for module in model.modules()
        for hook in module._forward_hooks.values()
    )


def test_blocks_are_measured_at_each_measured_step(tmp_path) -> None:
    model = network()
    trainer(tmp_path, model, monitor(tmp_path)).train()
    assert sizes(tmp_path) == sizes(tmp_path, "transformer.h.0") == {0: BATCH, 2: BATCH, 4: BATCH}
    units = {r.unit for r in records(tmp_path) if r.layer == "transformer.h.0" and r.unit is not None}
    assert max(units) >= TOKENS  # units are channels, not tokens
    assert {"normality", "variance"} <= {r.measure for r in records(tmp_path)}
    assert hooks(model) == 0


def test_accumulated_batches_are_one_measurement(tmp_path) -> None:
    """12 batches an epoch: 5, 5 and 2 of them."""
    options = {"gradient_accumulation_steps": 5, "max_steps": 6}
    trainer(tmp_path, network(), monitor(tmp_path, every=1), **options).train()
    assert sizes(tmp_path) == dict(enumerate([5 * BATCH, 5 * BATCH, 2 * BATCH] * 2))


def test_what_the_trainer_logs_is_recorded(tmp_path) -> None:
    logged = trainer(tmp_path, network(), monitor(tmp_path), eval_strategy="steps", eval_steps=3)
    logged.train()
    history = logged.state.log_history
    for key, measure in {"loss": "train/loss", "learning_rate": "learning_rate", "eval_loss": "val/loss"}.items():
        expected = {row["step"]: float(row[key]) for row in history if key in row}
        assert expected
        assert {r.step: r.value for r in records(tmp_path) if r.measure == measure} == pytest.approx(expected)
    assert sizes(tmp_path) == {0: BATCH, 2: BATCH, 4: BATCH}  # nothing of the evaluation


def test_checkpointed_blocks_are_counted_once(tmp_path) -> None:
    model = network()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer(tmp_path, model, monitor(tmp_path)).train()
    assert sizes(tmp_path) == {0: BATCH, 2: BATCH, 4: BATCH}


def test_every_layer_can_be_measured(tmp_path) -> None:
    trainer(tmp_path, network(), monitor(tmp_path, layers="*"), max_steps=1).train()
    layers = {r.layer for r in records(tmp_path)}
    assert {"transformer.wte", "transformer.h.0.attn.c_attn", "transformer.h.1.mlp.act", "lm_head"} <= layers


def test_a_probe_of_keyword_arguments(tmp_path) -> None:
    probe = {"input_ids": torch.randint(40, (8, TOKENS))}
    trainer(tmp_path, network(), monitor(tmp_path, on="probe", probe=probe)).train()
    assert sizes(tmp_path) == {0: 8, 2: 8, 4: 8}


def test_a_compiled_model_needs_a_probe(tmp_path) -> None:
    arguments = trainer(tmp_path, network()).args
    arguments.torch_compile = True
    with pytest.raises(ValueError, match="on: expected 'probe' with torch_compile, which runs no new hooks, got batch"):
        monitor(tmp_path).on_train_begin(arguments, None, None, model=network())


def test_a_resumed_run_continues_the_store(tmp_path) -> None:
    options = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, network(), monitor(tmp_path), **options, max_steps=4).train()
    trainer(tmp_path, network(), monitor(tmp_path), **options, max_steps=8).train(resume_from_checkpoint=True)
    assert sorted(sizes(tmp_path)) == [0, 2, 4, 6]


def test_after_an_exception_close_leaves_no_hook(tmp_path) -> None:
    model = network()

    class Bug(transformers.TrainerCallback):
        def on_optimizer_step(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyError("a bug in the loop")

    with pytest.raises(KeyError, match="a bug in the loop"), monitor(tmp_path) as watching:
        trainer(tmp_path, model, watching, Bug()).train()
    assert hooks(model) == 0
    assert list(sizes(tmp_path)) == [0]


def test_an_alarm_stops_the_training(tmp_path) -> None:
    rule = Threshold(measure="variance", kind="exploding", above=0.0, patience=2)
    model = network()
    stopped = trainer(tmp_path, model, monitor(tmp_path, alarms=Alarms([rule], action="stop")))
    stopped.train()
    assert stopped.state.global_step == 3  # the update of step 2 is over when that is measured
    assert sorted(sizes(tmp_path)) == [0, 2]
    assert hooks(model) == 0
