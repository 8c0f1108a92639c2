"""The LSTM with recurrent batch normalisation against `nn.LSTM`: two layers, 650 units, 35 steps, batch 20.

The floor is what any LSTM must compute: its matrix products, forwards and backwards, with those of the inputs for all
steps at once. Beside it stands the loop as one writes it by hand, with `nn.LSTMCell`'s operations and `F.batch_norm`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _timing import arguments, interleaved, judged, ratio, report
from layershift.nn import LSTMLayer

STEPS, BATCH, UNITS, LAYERS = 35, 20, 650, 2


class ByHand(nn.Module):
    """Equations 6 to 8 of Cooijmans et al., operation by operation."""

    def __init__(self, layer: LSTMLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        layer = self.layer
        h = c = x.new_zeros(x.shape[1], layer.hidden_size)
        outputs = []
        for t, now in enumerate(x):
            sums = self.normalize("input", now @ layer.weight_ih.mT, t) + layer.bias
            sums = sums + self.normalize("hidden", h @ layer.weight_hh.mT, t)
            i, f, g, o = sums.chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * torch.tanh(self.normalize("cell", c, t, layer.cell_shift))
            outputs.append(h)
        return torch.stack(outputs)

    def normalize(self, name: str, x: Tensor, t: int, shift: Tensor | None = None) -> Tensor:  # noqa: D102
        layer = self.layer
        mean, variance = (layer.get_buffer(f"{name}_{what}")[t] for what in ("mean", "var"))
        scale = layer.get_parameter(f"{name}_scale")
        return F.batch_norm(x, mean, variance, scale, shift, training=True, momentum=layer.momentum, eps=layer.eps)


def stack(layers: list[nn.Module], x: Tensor) -> Callable[[], None]:
    def run() -> None:
        y = x
        for layer in layers:
            layer.zero_grad()
            y = layer(y)
            y = y[0] if isinstance(y, tuple) else y
        y.square().mean().backward()

    return run


def products(x: Tensor) -> Callable[[], None]:
    """The matrix products of all layers, without anything between them."""
    weight, gates = torch.randn(4 * UNITS, UNITS, device=x.device), x.new_ones(STEPS, BATCH, 4 * UNITS)
    rows, sums = x.flatten(0, 1), gates.flatten(0, 1)

    def run() -> None:
        for _ in range(LAYERS):
            rows @ weight.mT, sums @ weight, sums.mT @ rows  # of the inputs, and their gradients
            for h, gate in zip(x, gates, strict=True):
                h @ weight.mT, gate @ weight
            sums.mT @ rows

    return run


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    x = torch.randn(STEPS, BATCH, UNITS, device=options.device)

    def layers(**kind) -> list[nn.Module]:
        return [LSTMLayer(UNITS, UNITS, **kind).to(options.device) for _ in range(LAYERS)]

    calls = {
        "nn.LSTM": stack([nn.LSTM(UNITS, UNITS, LAYERS).to(options.device)], x),
        "batch": stack(layers(), x),
        "dropout": stack(layers(norm=None, recurrent_dropout=0.5), x),
        "by hand": stack([ByHand(layer) for layer in layers()], x),
        "products": products(x),
    }
    times = interleaved(calls, repeats=max(options.repeats // 2, 5), warmup=2)
    detail = ", ".join(f"{name} {t.median * 1e3:.3g} ms" for name, t in times.items())
    against = times["nn.LSTM"]
    cases = [
        judged("recurrent batch normalisation / nn.LSTM", ratio(times["batch"], against), 3.0, detail=detail),
        judged("recurrent dropout / nn.LSTM", ratio(times["dropout"], against)),
        judged("recurrent batch normalisation by hand / nn.LSTM", ratio(times["by hand"], against)),
        judged("recurrent batch normalisation / its matrix products", ratio(times["batch"], times["products"])),
    ]
    report("recurrent", cases, options.out)


if __name__ == "__main__":
    main()
