"""Distances of 10,000 samples' label distributions at 10 layers from their targets, 80 labels: as the probe takes them.

Outputs are sigmoids that gain contrast with depth, targets sets of one to five labels, about 2.9 on average as in COCO,
costs those of COCO's word vectors. Each method runs once over all 100,000 problems: a ratio would hide what is asked.
"""

from __future__ import annotations

import time

import torch

from _timing import Case, arguments, report
from layershift.probe.depth import sample_distances
from layershift.probe.label_costs import cost_between, label_embeddings
from layershift.probe.outputs import LayerOutputs

SAMPLES, LAYERS = 10_000, 10


def made(samples: int) -> LayerOutputs:
    names = label_embeddings("coco")[0]
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(samples, len(names), generator=generator).argsort(1)
    sizes = 1 + torch.multinomial(torch.tensor([3.0, 2.5, 2.0, 1.5, 2.0]), samples, True, generator=generator)
    targets = order < sizes[:, None]
    noise = torch.randn(LAYERS, samples, len(names), generator=generator)
    depth = torch.linspace(0.5, 5, LAYERS)[:, None, None]
    p = torch.sigmoid(noise + depth * targets - 3)
    layers = (*(f"layer{k}" for k in range(LAYERS - 1)), "output")
    return LayerOutputs(layers, p, targets, "multi_label", names, tuple(map(str, range(samples))))


def main() -> None:
    options = arguments(__doc__ or "")
    outputs = made(SAMPLES)
    cost = cost_between(outputs.labels)
    cases = []
    for method, target in {"auto": 60.0, "sinkhorn": None, "jensen_shannon": None}.items():
        start = time.perf_counter()
        found = sample_distances(outputs, cost, method=method)
        seconds = time.perf_counter() - start
        assert found.isfinite().all()
        detail = f"{1e3 * seconds / found.numel():.3g} ms a distance, mean {float(found.mean()):.4f}"
        name = f"{method}, {SAMPLES:,} samples × {LAYERS} layers × {len(outputs.labels)} labels"
        cases.append(Case(name, seconds, target=target, unit="s", n=1, detail=detail))
    report("label_transport", cases, options.out)


if __name__ == "__main__":
    main()
