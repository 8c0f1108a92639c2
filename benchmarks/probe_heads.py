"""Classifiers at the nine inner layers of ResNet-18: all in one pass over the data, against one after the other.

One after the other means a pass of the network for each, as one does who knows of one layer at a time. Features are
kept and trained on for the paper's 100 epochs, or streamed through the network for one epoch.
"""

from __future__ import annotations

import torch
import torchvision

from _timing import arguments, interleaved, judged, ratio, report
from layershift.probe.fitting import fit
from layershift.probe.layers import default_layers

IMAGES, BATCH, SIDE, LABELS = 64, 32, 96, 20


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=LABELS).to(options.device)
    images, labels = torch.randn(IMAGES, 3, SIDE, SIDE), torch.rand(IMAGES, LABELS) < 0.1
    data = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    layers = list(default_layers(model))

    def together(**how) -> None:
        fit(model, data, layers=layers, **how)

    def in_turn(**how) -> None:
        for layer in layers:
            fit(model, data, layers=layer, **how)

    together(epochs=1)
    cases = []
    for name, how in (
        ("features kept, 100 epochs", {"epochs": 100}),
        ("features streamed, 1 epoch", {"epochs": 1, "cache_limit": 0}),
    ):
        calls = {"together": lambda how=how: together(**how), "in turn": lambda how=how: in_turn(**how)}
        times = interleaved(calls, repeats=max(options.repeats // 10, 3), warmup=0)
        detail = ", ".join(f"{key} {t.median:.3g} s" for key, t in times.items())
        case = f"{len(layers)} heads of ResNet-18 one after the other / in one pass, {name}"
        detail = f"{IMAGES} images of {SIDE} px, {LABELS} labels: {detail}"
        cases.append(judged(case, ratio(times["in turn"], times["together"]), 5.0, sense=">=", detail=detail))
    report("probe heads", cases, options.out)


if __name__ == "__main__":
    main()
