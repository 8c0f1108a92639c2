"""Promises of equality, as figures: what a seed, an interruption, a second process or another geometry changes.

- Two processes with half the batch each against one with the whole, 20 steps in float64 (gloo): the largest difference
  of any weight, relative to the largest weight of its tensor. The processes and networks are those of the tests.
- A run twice with one seed, and a run that is killed with SIGKILL and resumed, against one that is left alone, on the
  command line: how many weights differ in any bit.
- The flow of the network with batch normalisation against its twin on the manifold (adaptive, rtol 1e-9), over a
  horizon in which the loss falls by half: the largest relative difference of neurons and weights.
- `RiemannianSGD` on the manifold against SGD through batch normalisation: the exponent with which the gap between them
  shrinks as the step is halved four times; 1 is first order.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geoopt
import torch
from torch import Tensor, multiprocessing

from _floors import exponent
from _timing import Case, arguments, report

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.dynamics.neurons import normal, problem
from tests.nn import test_ranks_training as ranks

from layershift.dynamics import TwoLayerBN, flow, on_manifold, random_particles, to_ellipsoid
from layershift.dynamics.losses import loss_values
from layershift.train import Config
from layershift.train.folder import folder_of

FLOWS = (
    ("tanh", "squared", 5.0, 2.5, 40),
    ("tanh", "logistic", 30.0, 16.0, 40),
    ("softplus", "squared", 30.0, 4.0, 40),
)
HALVINGS = (20, 40, 80, 160, 320)
METHODS = ("unitization", "per", "vcl")


def far(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number that is expected."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def processes() -> list[Case]:
    """Two processes against one."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(ranks.one_of_two, args=(folder,), nprocs=2)
        found = torch.load(f"{folder}/0.pt")
    cases = []
    for name, method in ranks.METHODS.items():
        alone = ranks.train(method, slice(None), parallel=False)
        largest = max(far(found[name][key], value) for key, value in alone.items() if value.is_floating_point())
        detail = f"{ranks.STEPS} steps, batches of {ranks.BATCH}, {len(alone)} tensors"
        cases.append(Case(f"two processes / one, {name}", largest, None, 1e-9, unit="relative", n=1, detail=detail))
    return cases


def weights(config: Config, out: Path) -> dict[str, Tensor]:
    return torch.load(folder_of(config, out).last, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    """How many numbers are not the same, NaN being the same as NaN."""
    same = (torch.isclose(one[key], other[key], rtol=0, atol=0, equal_nan=True) for key in one)
    return sum(int((~equal).sum()) for equal in same)


def runs(method: str) -> list[Case]:
    """The same seed twice, and a run that is killed and resumed."""
    config = Config(scale="smoke", method=method, epochs=25, every=80, method_options={})
    options = [f"--{name}={getattr(config, name)}" for name in ("scale", "method", "epochs", "every")]
    if method == "vcl":
        config = Config(scale="smoke", method=method, epochs=25, every=80, method_options={"layers": "*linear"})
        options.append("--method_options.layers=*linear")
    with tempfile.TemporaryDirectory() as folder:

        def command(name: str, *more: str) -> list[str]:
            return [sys.executable, "-m", "layershift", "train", *options, "--quiet", f"--out={folder}/{name}", *more]

        for name in ("one", "other"):
            subprocess.run(command(name), check=True, stdout=subprocess.DEVNULL)
        killed = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        last = folder_of(config, Path(folder, "killed")).last
        while not last.exists() and killed.poll() is None:
            time.sleep(0.02)
        time.sleep(0.2)
        killed.send_signal(signal.SIGKILL)
        if killed.wait() != -signal.SIGKILL:
            raise RuntimeError(f"the run with {method} ended before it was killed")
        subprocess.run(command("killed", "--resume"), check=True, stdout=subprocess.DEVNULL)
        one, other, resumed = (weights(config, Path(folder, name)) for name in ("one", "other", "killed"))
    detail = f"of {sum(value.numel() for value in one.values())} weights, {config.epochs} epochs"
    return [
        Case(f"weights that differ, {what}, {method}", differing(one, found), None, 0, unit="weights", detail=detail)
        for what, found in (("same seed twice", other), ("killed and resumed", resumed))
    ]


def flows() -> list[Case]:
    """Theorem 2 over a horizon."""
    cases = []
    for activation, loss, condition, horizon, samples in FLOWS:
        even = 0.0 if activation == "tanh" else 0.5
        learnt = problem(samples, 3, activation=activation, loss=loss, condition=condition, even=even)
        a, b = normal(12, seed=1), normal(12, 3, seed=2)
        options = {"times": torch.linspace(0, horizon, 5, dtype=torch.float64), "rtol": 1e-9, "atol": 1e-11}
        euclidean = flow(learnt, a, b, kind="batch_norm", **options)
        start, norms = to_ellipsoid(b, learnt.sigma), b.norm(dim=1)
        manifold = flow(learnt, a, start, kind="manifold", norms=norms, **options)
        mapped = torch.stack([to_ellipsoid(neurons, learnt.sigma) for neurons in euclidean.b])
        largest = max(far(mapped, manifold.b), far(euclidean.a, manifold.a))
        fall = float(euclidean.loss[-1] / euclidean.loss[0])
        detail = f"the loss falls to {fall:.2g} of what it was"
        why = "" if fall < 0.5 else "the horizon is too short for the loss to fall by half"
        name = f"flow through batch normalisation / on the manifold, {activation}, {loss}"
        cases.append(Case(name, largest, None, 1e-6, unit="relative", n=5, detail=detail, why=why))
    return cases


def steps_of_descent(activation: str) -> Case:
    """The gap between two optimisers after one horizon, by the step."""
    gaps = []
    for steps in HALVINGS:
        learnt = problem(40, 3, activation=activation, condition=5.0)
        a, b = random_particles(3, 8, dtype=torch.float64)
        normalised = TwoLayerBN(3, 8, sigma=learnt.sigma, activation=activation, a=a, b=b)
        plain = on_manifold(normalised.plain(), learnt.sigma)
        rate = 8 * 4.0 / steps
        for network, kind in ((normalised, torch.optim.SGD), (plain, geoopt.optim.RiemannianSGD)):
            optimizer = kind(network.parameters(), lr=rate)
            for _ in range(steps):
                optimizer.zero_grad()
                loss_values(network(learnt.x), learnt.y, learnt.loss).mean().backward()
                optimizer.step()
        gap = (normalised.directions() - plain.b).square().sum() + (normalised.a - plain.a).square().sum()
        gaps.append(float(gap.detach().sqrt()))
    detail = "gaps " + ", ".join(f"{gap:.3g}" for gap in gaps)
    name = f"gap between RiemannianSGD and SGD through batch normalisation, by the step, {activation}"
    slope = exponent([1 / steps for steps in HALVINGS], gaps)
    return Case(name, slope, None, 0.9, ">=", unit="exponent", n=len(gaps), detail=detail)


def main() -> None:
    options = arguments(__doc__ or "")
    cases = [*processes(), *(case for method in METHODS for case in runs(method)), *flows()]
    report("agreement", [*cases, *map(steps_of_descent, ("tanh", "softplus"))], options.out)


if __name__ == "__main__":
    main()
