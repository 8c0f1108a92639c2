"""Stores with made-up but plausible numbers, and a headless Chromium that cannot reach a network."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from layershift.monitor.alarm import ADVICE, Alarm
from layershift.monitor.store import Record, Store

QUANTILES = {0.05: -1.6449, 0.25: -0.6745, 0.5: 0.0, 0.75: 0.6745, 0.95: 1.6449}
# For each method: how much of the way to N(0, I) training goes, drift of the scale, accuracy, milliseconds a step.
METHODS = {
    "vanilla": (0.15, 1.1, 0.948, 1.9),
    "batch": (0.75, 0.15, 0.968, 2.6),
    "unitization": (0.85, 0.05, 0.971, 2.8),
    "per": (0.55, -0.3, 0.962, 2.3),
}
LAYERS = [f"block{k // 2}.{'norm' if k % 2 == 0 else 'relu'}" for k in range(10)] + ["head.norm"]


def records_of(
    method: str = "batch",
    seed: int = 0,
    *,
    layers: list[str] = LAYERS,
    steps: range = range(0, 601, 15),
    units: int = 6,
) -> list[Record]:
    """A run's records: nothing here was measured, the shapes resemble what training does."""
    way, drift, accuracy, ms = METHODS[method]
    random = np.random.default_rng([seed, list(METHODS).index(method)])
    records = []
    for step in steps:
        t = 1 - math.exp(-4 * (step - steps[0]) / max(steps[-1] - steps[0], 1))
        for k, layer in enumerate(layers):
            shift = 0.5 * (1 - way * t) * math.sin(k) + 0.03 * random.standard_normal()
            scale = math.exp(drift * t * (k + 1) / len(layers)) * (1 + 0.03 * random.standard_normal())
            distance = abs(shift) * 0.8 + abs(scale - 1) * 0.7 + 0.06 * (1 - way * t) * (k + 1) + 0.03
            sizes = {"stderr": 0.02 * scale, "n": 128}
            records.append(Record(step, layer, "normality", distance, 0.01, 128, estimator="sliced W1, 256 directions"))
            moments = {
                "mean": shift,
                "variance": scale**2,
                "skewness": 0.4 * (1 - t),
                "kurtosis": 3 + 2 * (1 - way * t),
            }
            for name, value in moments.items():
                unit = {"mean": "x", "variance": "x^2"}.get(name, "1")
                records.append(Record(step, layer, name, value, **sizes, estimator="plug-in", units=unit))
                for u in range(units):
                    own = (
                        value
                        + (0.35 * math.sin(2 * u + k + 3 * t * (1 - way)) + 0.06 * random.standard_normal()) * scale
                    )
                    records.append(Record(step, layer, name, own, 0.05, 128, unit=3 * u, units=unit))
            for q, z in QUANTILES.items():
                records.append(Record(step, layer, f"quantile_{q:g}", shift + scale * z, **sizes, units="x"))
        loss = 2.3 * (1 - accuracy * t) * math.exp(0.08 * random.standard_normal())
        records.append(Record(step, "", "train/loss", loss, n=128, units="nat"))
        records.append(Record(step, "", "step_seconds", ms / 1000 * (1 + 0.1 * random.random()), units="s"))
        if step % 60 == 0:
            noise = 0.004 * random.standard_normal()
            records.append(Record(step, "", "val/accuracy", 0.1 + (accuracy - 0.1) * t + noise, n=360))
            records.append(Record(step, "", "val/loss", 2.3 * (1 - 0.95 * accuracy * t) + noise, n=360, units="nat"))
    floors = [Record(steps[-1], layer, "normality_floor", 0.035, n=128) for layer in layers]
    final = accuracy + 0.003 * random.standard_normal()
    return [*records, *floors, Record(steps[-1], "", "test/accuracy", final, n=360)]


# For each estimator: its number as a share of the upper end of its bracket, that of the lower end, what it says of
# itself, and seconds a layer.
ESTIMATORS = {
    "sliced": (0.62, 0.45, "sliced W1 on the scale of W1, 128 directions; standard error over pairs", "x", 0.0004),
    "exact": (0.8, 0.5, "exact W1 of these pairs; standard error by dual potentials over pairs", "x", 0.03),
    "critic": (0.7, 0.0, "critic, K·W1 with K unknown, weights clipped to 0.01, relu, 200 steps", "K·x", 0.12),
}
SEED_OF = {"gentle": 0, "harsh": 1}


def watched_records(method: str, seed: int, *, layers: list[str] = LAYERS, steps: range = range(0, 601, 15)):
    """What a monitor with a probe and health records: shift by three estimators, health, and its own cost."""
    random = np.random.default_rng([7, seed, SEED_OF[method]])
    rough = 1.0 if method == "gentle" else 3.0
    records = []
    for i, step in enumerate(steps):
        t = i / max(len(steps) - 1, 1)
        for k, layer in enumerate(layers):
            upper = rough * (0.9 + 0.25 * k) * math.exp(-3.5 * t) * math.exp(0.12 * random.standard_normal())
            for name, (part, least, text, units, seconds) in ESTIMATORS.items() if i else ():
                scale = 0.004 * upper if units == "K·x" else upper
                where = {"lower": least * scale, "upper": scale, "estimator": text, "units": units}
                records.append(Record(step, layer, f"shift/{name}", part * scale, 0.04 * scale, 256, **where))
                records.append(Record(step, layer, f"shift/{name}_seconds", seconds, units="s"))
            dead = min(0.9, 0.03 * k * rough * t) if "relu" in layer else 0.0
            rank = 1 + (12 + k) * math.exp(-rough * 0.5 * t) * (1 + 0.05 * random.random())
            records.append(Record(step, layer, "dead", dead, n=256, estimator="count over units"))
            records.append(Record(step, layer, "saturated", 0.0, n=256, estimator="count of units"))
            records.append(Record(step, layer, "effective_rank", rank, 0.1, 256, lower=1.0, upper=32.0))
        clock = {"estimator": "the monitor's own clock"}
        records.append(Record(step, "", "monitor/seconds", 0.011 + 0.001 * seed, n=1, units="s", **clock))
        records.append(Record(step, "", "monitor/share", 0.014 + 0.002 * seed + 0.02 / (i + 1), n=i + 1, **clock))
    return records


def alarms_of(method: str, layers: list[str] = LAYERS) -> list[Alarm]:
    """Alarms of several kinds, two of them at one place."""
    if method == "gentle":
        return []
    places = [(90, 3, "dead", "dead", 0.84, 0.75), (90, 3, "collapsed", "effective_rank", 1.0004, 1.001)]
    places += [(255, 7, "exploding", "rms", 2.4e6, 1e6), (270, 8, "exploding", "rms", 3.1e7, 1e6)]
    places += [(285, 9, "nonfinite", "nonfinite", 0.002, 0.0), (420, 5, "own rule", "mean", -3.0, 1.0)]
    return [
        Alarm(step, layers[k], None, kind, measure, value, limit, f"step {step}: {layers[k]!r} is {kind}", advice)
        for step, k, kind, measure, value, limit in places
        for advice in [ADVICE.get(kind, "")]
    ]


def write_run(folder: Path, method: str, seed: int, **options) -> Path:
    """A run's store as training lays it out: FOLDER/<method>/seed<k>/run.db."""
    path = folder / method / f"seed{seed}" / "run.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    order = list(METHODS).index(method)
    config = {
        "model": "mlp",
        "data": "digits",
        "epochs": 20,
        "batch_size": 128,
        "lr": 0.05,
        "method": method,
        "seed": seed,
    }
    with Store(path) as store:
        store.write(records_of(method, seed, **options))
        store.set_meta("method", method)
        store.set_meta("seed", seed)
        store.set_meta("config", config)
        store.set_meta("versions", {"layershift": "0.1.0", "torch": "2.15.0", "python": "3.11.2"})
        store.set_meta("command", "layershift demo --out runs/demo")
        store.set_meta("git_revision", "0123456789abcdef")
        store.set_meta("started", f"2026-11-21T07:{10 + 3 * order + seed:02d}:00+00:00")
        store.set_meta("finished", f"2026-11-21T07:{10 + 3 * order + seed:02d}:40+00:00")
    return path


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """A folder with 4 methods × 3 seeds."""
    folder = tmp_path_factory.mktemp("demo")
    for method in METHODS:
        for seed in range(3):
            write_run(folder, method, seed)
    return folder


@pytest.fixture(scope="session")
def watched(tmp_path_factory) -> Path:
    """A folder with 2 methods × 2 seeds that were measured in every way, and watched."""
    folder = tmp_path_factory.mktemp("watched")
    for method, like in {"gentle": "unitization", "harsh": "vanilla"}.items():
        for seed in range(2):
            with Store(folder / method / f"seed{seed}" / "run.db") as store:
                store.write(records_of(like, seed))
                store.write(watched_records(method, seed))
                store.write_alarms(alarms_of(method) if seed == 0 else [])
                meta = {"method": method, "seed": seed, "alarms": ["dead", "shift"], "started": f"2026-11-2{seed}"}
                for key, value in meta.items():
                    store.set_meta(key, value)
    return folder


@pytest.fixture(scope="session")
def make_run():
    return write_run


@pytest.fixture(scope="session")
def make_records():
    return records_of


def pytest_collection_modifyitems(config, items) -> None:
    """Where there is no Chromium the browser's tests are left out, unless it is required: then they fail."""
    if chromium_paths() or os.environ.get("LAYERSHIFT_REQUIRE_BROWSER"):
        return
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(
                pytest.mark.skip(reason="no chromium and chromedriver; LAYERSHIFT_REQUIRE_BROWSER=1 insists")
            )


def chromium_paths() -> tuple[str, str] | None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium whose every name lookup fails and that logs its console and its requests."""
    from selenium import webdriver

    paths = chromium_paths()
    assert paths, "these tests need chromium and chromedriver on PATH"
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths[1]))
    yield driver
    driver.quit()
