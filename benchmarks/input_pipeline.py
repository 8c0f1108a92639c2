"""How long training waits for its data: ResNet-20 on images of CIFAR's shape, augmented, batches of 128.

Beside the pipeline of `layershift.train.data` (bytes in memory, standardised and augmented a batch at a time) stands
the usual one: torchvision's transforms on one image after the other, in a `DataLoader` with two workers. Each takes
some steps in every round, in turn. A step is `next(iterator)`, forward, backward, update; its share is the time in
`next(iterator)`. Workers also take cores away from the training, so the whole step is compared as well, with a step on
a batch that is already there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from _timing import Case, Times, arguments, interleaved, judged, ratio, report, synchronize
from layershift.train.data import ImageData
from layershift.train.models import cifar_resnet

IMAGES, STEPS, BATCH = 5000, 6, 128


class Shaped(ImageData):
    """Random images of CIFAR's shape."""

    title, in_channels, num_classes, side = "shaped", 3, 10, 32
    val_share, official = 0.1, {"train": IMAGES, "test": 100}

    def read(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Both parts."""
        draw = torch.Generator().manual_seed(0)
        return {
            name: (
                torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=draw),
                torch.randint(10, (n,), generator=draw),
            )
            for name, n in self.official.items()
        }


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 gives them: one at a time, from PIL, through its transforms."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        augment = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
        self.images, self.labels = [v2.functional.to_pil_image(image) for image in images], labels.tolist()
        self.transform = v2.Compose(
            [*augment, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def training_step(model: nn.Module) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def run(loader: Iterable[Any], step: Callable[[Tensor, Tensor], None], device: torch.device) -> tuple[float, float]:
    """Seconds of a step, and the share of them that waits, over some steps after a first one."""
    batches: Iterator[Any] = iter(loader)
    step(*(tensor.to(device) for tensor in next(batches)))
    synchronize()
    waited, start = 0.0, time.perf_counter()
    for _ in range(STEPS):
        before = time.perf_counter()
        batch = [tensor.to(device) for tensor in next(batches)]
        synchronize()
        waited += time.perf_counter() - before
        step(*batch)
        synchronize()
    seconds = time.perf_counter() - start
    return seconds / STEPS, waited / seconds


def main() -> None:
    options = arguments(__doc__ or "")
    device = torch.device(options.device)
    torch.manual_seed(0)
    step = training_step(cifar_resnet(20).to(device))
    data = Shaped(BATCH, verify=False)
    data.setup()
    images, labels = data.parts["train"]
    usual = OneByOne(images, labels)
    data.parts["train"] = images.to(device), labels.to(device)
    data.prepare.to(device)
    loaders: dict[str, Iterable[Any]] = {
        "layershift": data.train_dataloader(),
        "torchvision": DataLoader(usual, BATCH, shuffle=True, num_workers=2, drop_last=True),
        "nothing": itertools.repeat(next(iter(data.train_dataloader()))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    shares: dict[str, list[float]] = {name: [] for name in loaders}
    rounds = max(options.repeats // 5, 3)
    for i in range(rounds):
        for name in list(loaders) if i % 2 == 0 else reversed(loaders):
            whole, share = run(loaders[name], step, device)
            seconds[name].append(whole)
            shares[name].append(share)
    single = DataLoader(usual, BATCH, shuffle=True, drop_last=True)
    made = interleaved(
        {
            "layershift": lambda: next(iter(loaders["layershift"])),
            "torchvision": lambda: next(iter(single)),
        },
        repeats=options.repeats,
    )
    plain, n = Times(seconds["nothing"]), f"{rounds} rounds of {STEPS} steps"
    detail = f"step without input {1e3 * plain.median:.3g} ms, {n}"
    batch = ", ".join(f"{name} {1e3 * times.median:.3g} ms" for name, times in made.items())
    whole = {name: ratio(Times(seconds[name]), plain) for name in ("layershift", "torchvision")}
    single_batch = ratio(made["torchvision"], made["layershift"])
    cases: list[Case] = [
        judged("share of a step that waits for layershift", Times(shares["layershift"]), 0.05, detail=detail),
        judged("share of a step that waits for torchvision, 2 workers", Times(shares["torchvision"])),
        judged("step with layershift / without input", whole["layershift"]),
        judged("step with torchvision, 2 workers / without input", whole["torchvision"]),
        judged("a batch by torchvision in this process / by layershift", single_batch, detail=batch),
    ]
    report("input_pipeline", cases, options.out)


if __name__ == "__main__":
    main()
