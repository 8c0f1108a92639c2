"""What torchmetrics asks of a metric, of every metric that `layershift.measure` exports.

torchmetrics does not ship the tester of its own suite; these are its checks: constants, clones, pickles, hashes,
`forward` against `update` and `compute`, resets, states as parts of a checkpoint, moves, collections, merged states. A
new metric without an entry in the table fails.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

import layershift as ls
from layershift.measure import (
    Critic,
    Estimate,
    Health,
    LabelTransport,
    Moments,
    MultiLabelResult,
    MultiLabelScores,
    Normality,
    Shift,
)

N = 40
X = 3 + torch.randn(N, 6, 3, generator=torch.Generator().manual_seed(0))
BEFORE = X + 0.1 * torch.randn(N, 6, 3, generator=torch.Generator().manual_seed(1))
P = torch.rand(N, 5, generator=torch.Generator().manual_seed(2))
TARGET = (torch.rand(N, 5, generator=torch.Generator().manual_seed(3)) < 0.4).float()
POINTS = torch.arange(5.0)
COST = (POINTS[:, None] - POINTS).square() / 16
CRITIC = Critic(lipschitz="spectral", activation="linear", steps=20, widths=(8, 8))
BATCHES = (9, 9, 9, 13)


class Case(NamedTuple):
    make: Callable[..., Metric]
    data: tuple[Tensor, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    by_order: bool = False  # whether the result depends, a little, on the order of the samples

    def __call__(self, **more: Any) -> Metric:
        return self.make(**self.options, **more)

    def batches(self, device: torch.device | str = "cpu") -> list[tuple[Tensor, ...]]:
        return list(zip(*(side.to(device).split(BATCHES) for side in self.data), strict=True))


METRICS: dict[type[Metric], dict[str, Case]] = {
    Moments: {"": Case(Moments, (X,), {"num_units": 2}), "all units": Case(Moments, (X,), {"num_units": 8})},
    Normality: {"": Case(Normality, (X,))},
    Health: {"": Case(Health, (X,)), "projected": Case(Health, ((X - 3).relu(),), {"max_channels": 4})},
    Shift: {
        "sliced": Case(Shift, (X, BEFORE)),
        "exact": Case(Shift, (X, BEFORE), {"estimator": "exact"}),
        "gaussian": Case(Shift, (X, BEFORE), {"estimator": "gaussian"}),
        "critic": Case(Shift, (X, BEFORE), {"estimator": "critic", "critic": CRITIC}, by_order=True),
    },
    LabelTransport: {
        "emd": Case(LabelTransport, (P, TARGET), {"cost": COST, "method": "emd"}),
        "sinkhorn": Case(LabelTransport, (P, TARGET), {"cost": COST, "method": "sinkhorn", "eps": 0.05}),
        "chebyshev": Case(LabelTransport, (P, TARGET), {"method": "chebyshev"}),
    },
    MultiLabelScores: {"": Case(MultiLabelScores, (P, TARGET), {"num_labels": 5})},
}
CASES = {f"{kind.__name__} {name}".strip(): case for kind, cases in METRICS.items() for name, case in cases.items()}
pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_every_exported_metric_has_an_entry() -> None:
    exported = [getattr(ls.measure, name) for name in ls.measure.__all__]
    assert {x for x in exported if isinstance(x, type) and issubclass(x, Metric)} == set(METRICS)


def numbers(result: Any) -> dict[str, Tensor]:
    """Every number of a result, by name; times are no result."""
    named = result._asdict() if isinstance(result, MultiLabelResult) else result
    named = named if isinstance(named, dict) else {"": named}
    assert all(isinstance(estimate, Estimate) for estimate in named.values())
    fields = ("value", "stderr", "n", "lower", "upper", "floor")
    found = {f"{name} {field}".strip(): getattr(e, field) for name, e in named.items() for field in fields}
    return {key: value for key, value in found.items() if value is not None}


def same(a: Any, b: Any, *, exactly: bool = False) -> None:
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(numbers(a), numbers(b), equal_nan=True, **tolerance)


def updated(metric: Metric, batches: list[tuple[Tensor, ...]]) -> Metric:
    for batch in batches:
        metric.update(*batch)
    return metric


def test_batches_are_as_good_as_the_whole(case: Case) -> None:
    same(updated(case(), case.batches()).compute(), updated(case(), [case.data]).compute())


def test_forward_gives_the_batch_and_adds_it_to_the_whole(case: Case) -> None:
    metric = case()
    for batch in case.batches():
        same(metric(*batch), updated(case(), [batch]).compute())
    same(metric.compute(), updated(case(), case.batches()).compute())
    assert metric.update_count == len(BATCHES)


def test_compute_is_kept_until_the_next_update(case: Case) -> None:
    metric = updated(case(), case.batches()[:3])
    first = metric.compute()
    assert metric.compute() is first
    metric.update(*case.batches()[3])
    same(metric.compute(), updated(case(), case.batches()).compute())


def test_reset_forgets_everything(case: Case) -> None:
    metric, fresh = case(), case()
    before = {key: copy.deepcopy(state) for key, state in metric.metric_state.items()}
    updated(metric, [tuple(side.flip(0) for side in case.data)]).compute()
    metric.reset()
    assert (metric.update_count, metric.update_called) == (0, False)
    for key, state in metric.metric_state.items():
        assert torch.equal(state, before[key]) if isinstance(state, Tensor) else state == before[key] == []
    same(updated(metric, case.batches()).compute(), updated(fresh, case.batches()).compute(), exactly=True)


def test_defaults_are_not_what_is_written_to(case: Case) -> None:
    metric, other = case(), case()
    updated(metric, case.batches())
    for key, default in metric._defaults.items():
        assert torch.equal(default, other._defaults[key]) if isinstance(default, Tensor) else default == []
    assert not any(
        state is other.metric_state[key] or state is other._defaults[key] for key, state in metric.metric_state.items()
    )
    same(updated(other, case.batches()).compute(), metric.compute(), exactly=True)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda metric: metric.clone(), lambda metric: pickle.loads(pickle.dumps(metric))],
    ids=["deepcopy", "clone", "pickle"],
)
def test_copies_go_on_alone(case: Case, copied: Callable[[Metric], Metric]) -> None:
    metric = case()
    again = copied(metric)
    assert again is not metric
    assert type(again) is type(metric)
    updated(again, case.batches()[:2])
    assert metric.update_count == 0
    assert all(not torch.is_tensor(s) or torch.equal(s, metric._defaults[k]) for k, s in metric.metric_state.items())
    third = copied(again)
    updated(third, case.batches()[2:])
    same(third.compute(), updated(case(), case.batches()).compute())
    same(again.compute(), updated(case(), case.batches()[:2]).compute())


def test_constants_hash_and_names(case: Case) -> None:
    metric, other = case(), case()
    for constant in ("is_differentiable", "higher_is_better", "full_state_update"):
        with pytest.raises(RuntimeError, match="Can't change const"):
            setattr(metric, constant, True)
    assert metric.full_state_update is False
    assert hash(metric) != hash(other)
    assert len({metric, other, metric}) == 2
    assert isinstance(hash(updated(metric, case.batches()[:1])), int)
    assert type(metric).__name__ in repr(metric)
    assert str(metric) == repr(metric)


def test_states_are_no_part_of_a_checkpoint_unless_asked(case: Case) -> None:
    metric = updated(case(), case.batches()[:2])
    assert not metric.state_dict()
    assert not list(metric.parameters())


def test_a_persistent_state_goes_on_where_it_was(case: Case, tmp_path: Any) -> None:
    metric = updated(case(), case.batches()[:3])
    metric.persistent(True)
    torch.save(metric.state_dict(), tmp_path / "metric.pt")
    loaded = case()
    loaded.persistent(True)
    loaded.load_state_dict(torch.load(tmp_path / "metric.pt", weights_only=True))
    same(loaded.compute(), metric.compute())
    loaded = case()
    loaded.load_state_dict(metric.state_dict(), strict=False)
    loaded.update(*case.batches()[3])
    same(loaded.compute(), updated(case(), case.batches()).compute())


def test_merged_states_are_those_of_the_union(case: Case) -> None:
    whole = numbers(updated(case(), case.batches()).compute())

    def check(metric: Metric) -> None:
        found = numbers(metric.compute())
        assert found.keys() == whole.keys()
        tolerance = {"rtol": 0.1, "atol": 0.1} if case.by_order else {"rtol": 1e-5, "atol": 1e-7}
        torch.testing.assert_close(found, whole, equal_nan=True, **tolerance)

    first, second = (updated(case(), part) for part in (case.batches()[:2], case.batches()[2:]))
    first.merge_state(second)
    check(first)
    same(second.compute(), updated(case(), case.batches()[2:]).compute())
    between = updated(case(), case.batches()[:1])
    between.merge_state(updated(case(), case.batches()[2:]).metric_state)
    between.update(*case.batches()[1])
    check(between)
    empty = case()
    empty.merge_state(updated(case(), case.batches()[:3]))
    empty.update(*case.batches()[3])
    check(empty)
    untouched = case()
    untouched.merge_state(updated(case(), case.batches()))
    check(untouched)


def test_collections(case: Case) -> None:
    names = {"a": case(), "b": case()}
    collection = MetricCollection(names, prefix="val/")
    for batch in case.batches():
        collection.update(*batch)
    expected = numbers(updated(case(), case.batches()).compute())
    for found in (collection.compute(), collection.clone(prefix="val/").compute()):
        assert all(isinstance(e, (Estimate, MultiLabelResult)) for e in found.values())
        for name in names:
            own = {k.removeprefix(f"val/{name}").strip("_"): v for k, v in found.items() if k.startswith(f"val/{name}")}
            own = own or {k.removeprefix("val/"): v for k, v in found.items()}  # dictionaries lose the metric's name
            result = next(iter(own.values())) if len(own) == 1 else own
            torch.testing.assert_close(numbers(result), expected, equal_nan=True, rtol=1e-5, atol=1e-7)
    collection.reset()
    assert all(metric.update_count == 0 for metric in collection.values(copy_state=False))


def test_states_on_the_cpu(case: Case, device: torch.device) -> None:
    metric = case(compute_on_cpu=True).to(device)
    updated(metric, case.batches(device))
    for key, default in metric._defaults.items():
        if isinstance(default, list):
            assert all(part.device.type == "cpu" for part in getattr(metric, key))
    expected = numbers(updated(case(), case.batches()).compute())
    found = {key: value.cpu() for key, value in numbers(metric.compute()).items()}
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-6)


def test_moves(case: Case, device: torch.device) -> None:
    metric = updated(case(), case.batches()[:2])
    metric.to(device)
    assert metric.device.type == device.type
    updated(metric, case.batches(device)[2:])
    found = {key: value.cpu() for key, value in numbers(metric.compute()).items()}
    expected = numbers(updated(case(), case.batches()).compute())
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-6)


def test_casts_of_a_model_leave_its_metrics_alone(case: Case) -> None:
    holder = torch.nn.ModuleDict({"metric": case()})
    dtypes = {key: state.dtype for key, state in holder["metric"].metric_state.items() if isinstance(state, Tensor)}
    for cast in ("half", "float", "double"):
        getattr(holder, cast)()
    after = {key: state.dtype for key, state in holder["metric"].metric_state.items() if isinstance(state, Tensor)}
    assert after == dtypes
    same(updated(holder["metric"], case.batches()).compute(), updated(case(), case.batches()).compute())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_set_dtype(case: Case, dtype: torch.dtype) -> None:
    metric = case()
    metric.set_dtype(dtype)
    data = [tuple(side.to(dtype) for side in batch) for batch in case.batches()]
    found = numbers(updated(metric, data).compute())
    expected = numbers(updated(case(), data).compute())  # of other dtypes, directions are others
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key].double(), value.double(), equal_nan=True, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_inputs_stay_and_need_no_gradient(case: Case) -> None:
    before = [side.clone() for side in case.data]
    leaves = [side.clone().requires_grad_() for side in case.data]
    metric = case()
    metric.update(*leaves)
    result = numbers(metric.compute())
    assert not any(value.requires_grad for value in result.values())
    for state in metric.metric_state.values():
        assert not any(part.requires_grad for part in (state if isinstance(state, list) else [state]))
    assert all(torch.equal(a, b) for a, b in zip(case.data, before, strict=True))
    assert all(leaf.grad is None for leaf in leaves)


def test_inference_mode(case: Case) -> None:
    metric = case()
    with torch.inference_mode():
        updated(metric, case.batches()[:2])
    updated(metric, case.batches()[2:])
    same(metric.compute(), updated(case(), case.batches()).compute())


def test_nothing_seen_is_no_number(case: Case) -> None:
    metric = case()
    try:
        result = numbers(metric.compute())
    except (ValueError, RuntimeError):
        return
    assert all(float(value.sum()) == 0 for key, value in result.items() if key.endswith("n"))
    assert all(value.isnan().all() for key, value in result.items() if key.endswith("value"))


def test_options_of_torchmetrics(case: Case) -> None:
    metric = case(sync_on_compute=False, dist_sync_on_step=True, compute_with_cache=False)
    updated(metric, case.batches())
    assert metric.compute() is not metric.compute()
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `nothing`"):
        case(nothing=1)
