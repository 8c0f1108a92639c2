"""Group normalisation by number and by size of groups."""

from __future__ import annotations

import pickle

import pytest
import torch

from layershift.train.models import GROUPINGS, cifar_resnet, group_norm


@pytest.mark.parametrize("channels", [16, 32, 64])
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_ten_groupings(n, channels) -> None:
    assert len(GROUPINGS) == 10
    assert GROUPINGS[f"groups_{n}"](channels).num_groups == n
    assert GROUPINGS[f"channels_{n}"](channels).num_groups == channels // n
    x = torch.randn(3, channels, 4, 4, dtype=torch.float64)
    grouped = x.reshape(3, -1, n, 4, 4)
    variance, mean = torch.var_mean(grouped, (2, 3, 4), correction=0, keepdim=True)
    expected = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    torch.testing.assert_close(GROUPINGS[f"channels_{n}"](channels).double()(x), expected)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_every_grouping_fits_the_residual_networks(grouping) -> None:
    model = cifar_resnet(20, preactivation=True, norm=GROUPINGS[grouping], seed=0)
    batch = cifar_resnet(20, preactivation=True, seed=0)
    assert model(torch.randn(2, 3, 16, 16)).isfinite().all()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in batch.parameters())


def test_factories_can_be_sent_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(group_norm(num_groups=2)))(8).num_groups == 2


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_groups, channels_per_group: expected exactly one of them"):
        group_norm()
    with pytest.raises(ValueError, match="num_groups, channels_per_group: expected exactly one of them"):
        group_norm(num_groups=2, channels_per_group=2)
    with pytest.raises(ValueError, match="channels_per_group: expected at least 1, got 0"):
        group_norm(channels_per_group=0)
    with pytest.raises(ValueError, match="num_groups: expected a divisor of the layer's 12 channels, got 8"):
        group_norm(num_groups=8)(12)
    with pytest.raises(ValueError, match="channels_per_group: expected a divisor of the layer's 16 channels, got 32"):
        cifar_resnet(20, norm=group_norm(channels_per_group=32))
