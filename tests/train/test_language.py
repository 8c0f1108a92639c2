"""Word language models: parameters by hand, a stack by hand, state carried on, perplexities, interrupted training."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

import layershift as ls
from layershift.nn import LSTMLayer, VariationalDropout
from layershift.train.callbacks import Saving
from layershift.train.data.markov import MarkovWords
from layershift.train.data.text import Windows
from layershift.train.language import BlockMean, LanguageModel
from layershift.train.models import MODELS, word_lstm


def trainer(epochs: int, *callbacks: Callback, **options) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options["enable_checkpointing"] = any(isinstance(callback, Saving) for callback in callbacks)
    return Trainer(max_epochs=epochs, num_sanity_val_steps=0, callbacks=list(callbacks), **quiet, **options)


def words(length: int, size: int, vocabulary: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocabulary, (length, size), generator=torch.Generator().manual_seed(seed))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class TestNetwork:
    def test_parameters_of_the_papers_networks(self) -> None:
        lstm = 2 * (4 * 650 * (650 + 650) + 8 * 650)
        assert count(word_lstm(10_000, tied=True)) == 10_000 * 650 + lstm + 10_000 == 13_280_400
        assert count(word_lstm(10_000)) == 2 * 10_000 * 650 + lstm + 10_000 == 19_780_400
        assert count(word_lstm(33_278, tied=True)) == 33_278 * 650 + lstm + 33_278
        scales = 2 * (2 * 4 * 650 + 2 * 650)
        normalised = word_lstm(10_000, tied=True, norm="recurrent_batch")
        assert count(normalised) == 13_280_400 - 2 * 4 * 650 + scales  # one bias a layer, not two
        assert count(word_lstm(100, hidden=8, embedding=5, layers=3)) == 500 + 4 * 8 * 13 + 64 + 2 * (512 + 64) + 900

    def test_the_plain_one_is_made_of_pytorchs_lstm(self) -> None:
        kinds = {"": nn.LSTM, "norm": LSTMLayer, "drop": LSTMLayer, "outside": nn.LSTM}
        options = {
            "": {},
            "norm": {"norm": "recurrent_batch"},
            "drop": {"variational": True},
            "outside": {"variational": True, "recurrent_dropout": 0.0},
        }
        for name, kind in kinds.items():
            model = word_lstm(30, hidden=8, **options[name])
            assert type(model.lstm1) is type(model.lstm2) is kind
        assert word_lstm(30, hidden=8, variational=True, dropout=0.3).lstm2.recurrent_dropout == 0.3
        assert type(word_lstm(30, hidden=8, variational=True).dropout1) is VariationalDropout
        assert MODELS["word_lstm"] is word_lstm

    def test_it_computes_what_a_stack_by_hand_does(self) -> None:
        model = word_lstm(30, hidden=8, embedding=5, seed=0).eval()
        reference = nn.LSTM(5, 8, 2)
        for i in (1, 2):
            for name, parameter in model.get_submodule(f"lstm{i}").named_parameters():
                getattr(reference, name.replace("_l0", f"_l{i - 1}")).data.copy_(parameter)
        x = words(7, 3)
        output, (h, c) = reference(model.embedding(x))
        scores, state = model(x)
        torch.testing.assert_close(scores, model.decoder(output))
        torch.testing.assert_close(state, tuple(zip(h.unbind(0), c.unbind(0), strict=True)))

    def test_words_may_come_batch_first(self) -> None:
        first, second = (word_lstm(30, hidden=8, seed=0, batch_first=flag).eval() for flag in (False, True))
        x = words(7, 3)
        torch.testing.assert_close(second(x.t())[0], first(x)[0].transpose(0, 1))

    @pytest.mark.parametrize("norm", [None, "recurrent_batch"])
    def test_the_state_carries_over(self, norm) -> None:
        model = word_lstm(30, hidden=8, seed=0, norm=norm, steps=1).eval()
        x = words(9, 3)
        whole, last = model(x)
        first, between = model(x[:4])
        second, end = model(x[4:], between)
        torch.testing.assert_close((torch.cat([first, second]), end), (whole, last))

    def test_one_seed_gives_every_kind_the_same_weights(self) -> None:
        plain = word_lstm(30, hidden=8, seed=3)
        other = word_lstm(30, hidden=8, seed=3, norm="recurrent_batch", variational=True)
        for name in ("embedding.weight", "decoder.weight"):
            assert torch.equal(plain.get_parameter(name), other.get_parameter(name))
        for i in (1, 2):
            lstm, layer = plain.get_submodule(f"lstm{i}"), other.get_submodule(f"lstm{i}")
            assert torch.equal(lstm.weight_ih_l0, layer.weight_ih)
            assert torch.equal(lstm.weight_hh_l0, layer.weight_hh)
            torch.testing.assert_close(lstm.bias_ih_l0 + lstm.bias_hh_l0, layer.bias)
        assert not torch.equal(plain.embedding.weight, word_lstm(30, hidden=8, seed=4).embedding.weight)

    def test_tied_weights_are_one_tensor(self) -> None:
        model = word_lstm(30, hidden=8, tied=True, seed=0)
        assert model.decoder.weight is model.embedding.weight
        assert model.embedding.weight.abs().max() <= 0.1

    @pytest.mark.parametrize("norm", [None, "recurrent_batch"])
    def test_penalty_and_monitor_see_one_sample_a_step(self, norm) -> None:
        model = word_lstm(30, hidden=8, norm=norm, seed=0)
        seen = []
        model.hidden2.register_forward_hook(lambda *a: seen.append(a[2]))
        with ls.regularize(model, ls.nn.PER(reduction="sum"), layers="hidden*", weight=0.5) as penalty:
            model(words(7, 4))
            value = penalty.loss()
        assert penalty.layers == ["hidden1", "hidden2"]
        assert seen[0].shape == (28, 8)
        value.backward()
        assert model.get_submodule("lstm1").weight_hh_l0.grad.abs().max() > 0 if norm is None else True
        with ls.Monitor(model, layers="hidden*", on="probe", probe=words(7, 4)) as monitor:
            monitor.measure(0)
            records = monitor.records()
        assert {record.layer for record in records} == {"hidden1", "hidden2"}

    def test_errors_say_what_was_expected(self) -> None:
        with pytest.raises(ValueError, match="norm: expected one of None, 'recurrent_batch', got 'batch'"):
            word_lstm(30, norm="batch")
        with pytest.raises(ValueError, match="embedding: expected 8, the size of the layer that is decoded, if tied"):
            word_lstm(30, hidden=8, embedding=5, tied=True)
        with pytest.raises(ValueError, match="layers: expected at least 1, got 0"):
            word_lstm(30, layers=0)
        model = word_lstm(30, hidden=8)
        with pytest.raises(ValueError, match=r"words: expected a tensor of shape \(T, B\), got shape \(3,\)"):
            model(torch.zeros(3, dtype=torch.long))
        with pytest.raises(ValueError, match="state: expected one pair for each of 2 layers"):
            model(words(3, 2), ())


class TestBlocks:
    def test_equal_blocks_have_the_error_of_their_means(self) -> None:
        losses = torch.rand(35, 200) + 3 * torch.rand(200)  # what blocks share does not average out inside them
        mean = BlockMean("", windows=1)
        for part in losses.split(50, dim=1):
            mean.update(part)
        value, stderr, n = mean.compute()[:3]
        assert value.item() == pytest.approx(losses.mean().item(), rel=1e-5)
        assert stderr.item() == pytest.approx(losses.mean(0).std().item() / math.sqrt(200), rel=1e-3)
        assert n == 200
        assert stderr > 2 * losses.std() / math.sqrt(losses.numel())

    def test_a_block_is_several_windows_of_a_stream(self) -> None:
        losses = torch.rand(12 * 5, 4) + torch.arange(4)
        mean = BlockMean("", windows=3)
        for repeat in range(2):
            mean.reset()
            for window in losses.split(5):
                mean.update(window + repeat)
            blocks = losses.view(4, 15, 4).mean(1).flatten()
            value, stderr, n = mean.compute()[:3]
            assert value.item() == pytest.approx(losses.mean().item() + repeat, rel=1e-5)
            assert stderr.item() == pytest.approx(blocks.std().item() / 4, rel=1e-3)
            assert n == 16

    def test_a_block_that_is_not_full_counts(self) -> None:
        mean = BlockMean("", windows=3)
        for window in torch.arange(8.0).view(4, 2).split(1):
            mean.update(window)
        assert [x.item() for x in mean.compute()[:3:2]] == [3.5, 4]  # three windows and one, of two streams

    def test_words_weigh_the_same_in_short_blocks(self) -> None:
        long, short = torch.rand(35, 20), 5 + torch.rand(3, 20)
        mean = BlockMean("", windows=1)
        mean.update(long), mean.update(short)
        assert mean.compute().value.item() == pytest.approx(torch.cat([long, short]).mean().item(), rel=1e-5)

    def test_the_error_is_that_of_repeated_samples(self) -> None:
        torch.manual_seed(0)

        def sample() -> tuple[float, float]:
            mean = BlockMean("", windows=2)
            for _ in range(4):
                shared = torch.randn(30)
                for length in (5, 2):
                    mean.update(torch.randn(length, 30) + shared)
            return mean.compute().value.item(), mean.compute().stderr.item()

        values, errors = torch.tensor([sample() for _ in range(400)]).T
        assert values.std().item() == pytest.approx(errors.mean().item(), rel=0.12)


class TestTraining:
    def test_estimates_are_those_of_the_network(self) -> None:
        data, module = MarkovWords(train_size=800, eval_size=600), LanguageModel(word_lstm(50, hidden=16, seed=0))
        trainer(1).fit(module, datamodule=data)
        streams = data.parts["val"]
        with torch.no_grad():
            scores = module.model.eval()(streams[:-1])[0]  # in one go: windows carry the state, so they give the same
        losses = nn.functional.cross_entropy(scores.flatten(0, 1), streams[1:].flatten())
        loss, perplexity = module.estimates["val/loss"], module.estimates["val/perplexity"]
        assert loss.value.item() == pytest.approx(losses.item(), rel=1e-5)
        assert perplexity.value.item() == pytest.approx(losses.exp().item(), rel=1e-5)
        assert perplexity.stderr.item() == pytest.approx((perplexity.value * loss.stderr).item())
        assert loss.n == 10  # 59 words of each of ten streams are one block
        assert "test/loss" not in module.estimates
        assert module.headline == "val/perplexity"

    def test_the_state_is_carried_without_its_history_and_starts_at_zero(self) -> None:
        class Look(Callback):
            def on_train_batch_start(self, _trainer, module, *_):
                state = module._states.get("train")
                seen.append(None if state is None else state[0][0])

        seen: list[torch.Tensor | None] = []
        data, module = MarkovWords(train_size=2000, eval_size=100), LanguageModel(word_lstm(50, hidden=8, seed=0))
        trainer(2, Look()).fit(module, datamodule=data)
        assert [state is None for state in seen] == [True, False, False] * 2
        assert not any(state.requires_grad for state in seen if state is not None)
        assert not torch.equal(seen[1], seen[2])

    def test_gradients_are_clipped(self) -> None:
        class Length(Callback):
            def on_before_zero_grad(self, _trainer, module, _optimizer):
                grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
                if grads:
                    lengths.append(torch.cat(grads).norm().item())

        def longest(limit: float | None, **options) -> float:
            lengths.clear()
            module = LanguageModel(word_lstm(50, hidden=16, seed=0), learning_rate=1, gradient_clip=limit)
            data = MarkovWords(train_size=1500, eval_size=100)
            trainer(1, Length(), **options).fit(module, datamodule=data)
            return max(lengths)

        lengths: list[float] = []
        assert longest(None) > 0.05
        assert longest(0.01) == pytest.approx(0.01, rel=1e-3)
        assert longest(0.01, gradient_clip_val=0.02) == pytest.approx(0.02, rel=1e-3)  # the Trainer's takes precedence
        assert LanguageModel(nn.Identity()).gradient_clip == 0.25

    def test_the_penalty_is_added_to_the_loss(self) -> None:
        class Handle:
            def loss(self):
                return module.model.decoder.weight.square().sum()

        module = LanguageModel(word_lstm(50, hidden=8, dropout=0.0, seed=0))
        batch = next(iter(Windows(words(20, 4, 50), 10)))
        plain = module.training_step(batch)
        module._states.clear()
        module.penalty_loss = Handle()
        torch.testing.assert_close(module.training_step(batch) - plain, Handle().loss(), rtol=1e-4, atol=1e-5)

    def test_the_rate_falls_when_validation_gets_no_better(self) -> None:
        class Rates(Callback):
            def on_train_epoch_start(self, trainer, *_):
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

            def on_validation_end(self, _trainer, module):
                losses.append(module.estimates["val/loss"].value.item())

        rates: list[float] = []
        losses: list[float] = []
        module = LanguageModel(word_lstm(50, hidden=16, dropout=0.0, seed=0), learning_rate=150)
        trainer(5, Rates()).fit(module, datamodule=MarkovWords(train_size=2000, eval_size=1000))
        expected, best = [150.0], float("inf")
        for loss in losses[:-1]:
            expected.append(expected[-1] * (1 if loss < best else 0.25))
            best = min(best, loss)
        assert rates == pytest.approx(expected)
        assert len(set(rates)) > 1

    @pytest.mark.parametrize(
        ("rate", "options"), [(150, {}), (600, {"norm": "recurrent_batch"}), (150, {"variational": True})]
    )
    def test_interrupted_and_resumed_is_uninterrupted(self, tmp_path, rate, options) -> None:
        def run(epochs: int, callbacks=(), **fit) -> LanguageModel:
            module = LanguageModel(word_lstm(50, hidden=8, seed=0, **options), learning_rate=rate, seed=5)
            data = MarkovWords(train_size=1500, eval_size=500)
            last = trainer(epochs, *callbacks)
            last.fit(module, datamodule=data, weights_only=True, **fit)
            rates.append(last.optimizers[0].param_groups[0]["lr"])
            return module

        rates: list[float] = []
        whole = run(4)
        run(2, [Saving(tmp_path)])
        torch.rand(17)
        resumed = run(4, ckpt_path=tmp_path / "last.ckpt")
        for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
        assert rates[0] == rates[2] < rate  # it fell

    @pytest.mark.slow
    def test_a_known_language_is_learned_and_never_beaten(self) -> None:
        data = MarkovWords()
        module = LanguageModel(word_lstm(50, hidden=64, layers=1, tied=True, dropout=0.1, seed=0))
        runs = trainer(10)
        runs.fit(module, datamodule=data)
        runs.test(module, datamodule=data, verbose=False)
        found = module.estimates["test/perplexity"]
        assert data.best_perplexity - 3 * found.stderr < found.value < 1.3 * data.best_perplexity
        assert found.value < 20  # of 50 words

    def test_errors_say_what_was_expected(self) -> None:
        with pytest.raises(ValueError, match="gradient_clip: expected a positive number, got 0"):
            LanguageModel(nn.Identity(), gradient_clip=0)
        with pytest.raises(ValueError, match=r"schedule: expected one of .*'plateau'.*, got 'linear'"):
            LanguageModel(nn.Identity(), schedule="linear")
