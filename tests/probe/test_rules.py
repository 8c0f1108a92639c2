from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layershift.probe.rules import RULES, Agreement, Confidence, Entropy, ExitRule, LabelCount, exit_rule

seeds = st.integers(0, 2**31)


def table(seed: int, kind: str = "multi_label", layers: int = 5, n: int = 30, labels: int = 4) -> Tensor:
    """Probabilities of several layers on a coarse grid, so that ties and thresholds that are met exactly occur."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randint(0, 11, (layers, n, labels), generator=generator) / 10
    return p if kind == "multi_label" else (p + 0.1) / (p + 0.1).sum(-1, keepdim=True)


def naive(rule: ExitRule, p: Tensor) -> list[int]:
    """Each sample by itself, in plain Python, from the definitions."""
    found = []
    for sample in p.transpose(0, 1).tolist():
        before, run, exit_at = None, 0, len(sample) - 1
        for depth, row in enumerate(sample[:-1]):
            if isinstance(rule, LabelCount):
                predicted = sum(x > rule.p for x in row)
                forceful = sum(x > torch.tensor(rule.q).item() for x in row)
                leaves = predicted > 0 and forceful / predicted >= rule.gamma
            elif isinstance(rule, Confidence):
                leaves = max(row) > torch.tensor(rule.threshold).item()
            elif isinstance(rule, Entropy):
                total = sum(row)
                if total == 0:
                    continue
                entropy = -sum(x / total * math.log(x / total) for x in row if x > 0)
                leaves = 1 - entropy / math.log(len(row)) > rule.threshold
            else:
                assert isinstance(rule, Agreement)
                several = rule.task == "multi_label"
                said = {k for k, x in enumerate(row) if x > 0.5} if several else {row.index(max(row))}
                run = run + 1 if said == before else 1
                before, leaves = said, run >= rule.patience
            if leaves:
                exit_at = depth
                break
        found.append(exit_at)
    return found


def online(rule: ExitRule, p: Tensor) -> list[int]:
    """Layer by layer, with the rows of those that left taken out."""
    rows, state = torch.arange(p.shape[1]), ()
    found = torch.full_like(rows, len(p) - 1)
    for depth, layer in enumerate(p[:-1]):
        leaves, state = rule.step(layer[rows], state)
        found[rows[leaves]] = depth
        rows, state = rows[~leaves], tuple(part[~leaves] for part in state)
    return found.tolist()


thresholds = st.integers(0, 20).map(lambda i: i / 20)
rules = st.one_of(
    st.builds(
        LabelCount,
        q=st.integers(10, 20).map(lambda i: i / 20),
        gamma=st.sampled_from([0.1, 1 / 3, 0.5, 0.6, 2 / 3, 0.75, 1.0]),
    ),
    st.builds(Confidence, thresholds),
    # Between what the coarse probabilities give, up to rounding, which two ways of summing need not share.
    st.builds(Entropy, st.floats(0.01, 0.99).map(lambda x: round(x, 2) + 0.00123)),
    st.builds(Agreement, st.integers(2, 7), st.sampled_from(["single_label", "multi_label"])),
)


@given(rules, seeds)
@settings(max_examples=150, deadline=None)
def test_whole_tables_and_single_layers_decide_as_the_definitions_do(rule: ExitRule, seed: int) -> None:
    for kind in ("single_label", "multi_label"):
        p = table(seed, kind)
        assert rule.exits(p).tolist() == naive(rule, p) == online(rule, p)


@given(seeds, st.sampled_from(["q", "gamma", "confidence", "entropy", "agreement"]), st.data())
@settings(max_examples=100, deadline=None)
def test_a_higher_threshold_never_lets_a_sample_leave_earlier(seed: int, what: str, data: st.DataObject) -> None:
    low, high = sorted(data.draw(st.floats(0.5, 1, allow_nan=False)) for _ in range(2))
    steps = sorted(data.draw(st.integers(2, 7)) for _ in range(2))
    lower: ExitRule
    higher: ExitRule
    if what == "q":
        lower, higher = LabelCount(low, 0.6), LabelCount(high, 0.6)
    elif what == "gamma":
        lower, higher = LabelCount(0.7, low), LabelCount(0.7, high)
    elif what == "agreement":
        lower, higher = (Agreement(number, "multi_label") for number in steps)
    else:
        lower, higher = RULES[what](low), RULES[what](high)  # type: ignore[call-arg]
    p = table(seed)
    assert (lower.exits(p) <= higher.exits(p)).all()


@pytest.mark.parametrize(
    "rule", [LabelCount(q=1, gamma=1), LabelCount(q=1, gamma=0.01), Confidence(1), Entropy(1), Agreement(6)]
)
def test_thresholds_at_one_are_the_full_network(rule: ExitRule) -> None:
    certain = torch.eye(4)[torch.randint(0, 4, (5, 50))]  # distributions with one probability of exactly 1
    sure = torch.randint(0, 2, (5, 50, 4)).float()
    for p in (certain, sure, table(1), table(2, "single_label"), torch.full((5, 3, 4), math.nan)):
        assert (rule.exits(p) == 4).all()


def test_a_sample_without_a_predicted_label_stays() -> None:
    p = torch.tensor([[[0.5, 0.4], [0.51, 0.0]], [[0.9, 0.9], [0.9, 0.9]]])
    assert LabelCount(q=0.5, gamma=0.01).exits(p).tolist() == [1, 0]


def test_a_ratio_meets_the_threshold_that_is_written_as_it() -> None:
    for whole in range(1, 30):
        for part in range(1, whole + 1):
            p = torch.tensor([[0.9] * part + [0.6] * (whole - part)])[None].repeat(2, 1, 1)
            assert LabelCount(q=0.8, gamma=part / whole).exits(p).item() == 0


def test_entropy_reads_nats_through_the_share() -> None:
    p = table(3, "single_label", n=200)
    entropy = -(p * p.log()).sum(-1)
    threshold = 0.9
    leaves = entropy[0] < (1 - threshold) * math.log(4)
    assert torch.equal(Entropy(threshold).exits(p[[0, 1]]) == 0, leaves)
    assert Entropy(0.0).exits(torch.full((2, 3, 1), 0.7)).tolist() == [1, 1, 1]  # of one label there is no entropy


def test_agreement_on_the_empty_set_is_agreement() -> None:
    nothing = torch.zeros(4, 1, 3)
    assert Agreement(3, "multi_label").exits(nothing).item() == 2


def test_one_layer_is_the_full_network() -> None:
    for rule in (LabelCount(0.5, 0.5), Confidence(0.0), Entropy(0.0), Agreement(2)):
        assert rule.exits(table(0, layers=1)).tolist() == [0] * 30


@given(rules)
@settings(max_examples=30, deadline=None)
def test_rules_survive_plain_data(rule: ExitRule) -> None:
    assert exit_rule(**rule.to_dict()) == rule


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"q: expected a probability from p = 0.5 to 1, got 0.4"):
        LabelCount(q=0.4, gamma=1)
    with pytest.raises(ValueError, match="gamma: expected a share above 0 and up to 1, got 0"):
        LabelCount(q=0.6, gamma=0)
    with pytest.raises(ValueError, match="p: expected a probability, got 2"):
        LabelCount(q=0.6, gamma=1, p=2)
    with pytest.raises(ValueError, match="threshold: expected a probability, got nan"):
        Confidence(math.nan)
    with pytest.raises(ValueError, match="threshold: expected a share of the largest entropy"):
        Entropy(1.1)
    with pytest.raises(ValueError, match="patience: expected 2 layers or more, got 1"):
        Agreement(1)
    with pytest.raises(ValueError, match="task: expected one of 'single_label', 'multi_label', got 'both'"):
        Agreement(2, "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="task: expected 'single_label' with Confidence, got 'multi_label'"):
        Confidence(0.5).check_task("multi_label")
    with pytest.raises(ValueError, match="task: expected 'single_label', as the rule has, got 'multi_label'"):
        Agreement(2).check_task("multi_label")
    with pytest.raises(ValueError, match="task: expected one of"):
        Entropy(0.5).check_task("both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind: expected one of 'label_count', 'confidence'"):
        exit_rule("sure")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"options: expected those of Confidence, got {'q': 1}"):
        exit_rule("confidence", q=1)
    with pytest.raises(ValueError, match=r"probabilities: expected a tensor of shape \(L, N, K\)"):
        Confidence(0.5).exits(torch.zeros(3, 4))
