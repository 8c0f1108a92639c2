"""The networks by name. A new one is one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from layershift.train.models.cnn import small_cnn
from layershift.train.models.cnn11 import cnn11
from layershift.train.models.imagenet_resnet import imagenet_resnet
from layershift.train.models.mlp import moments_mlp
from layershift.train.models.resnet import cifar_resnet
from layershift.train.models.torchvision_networks import resnet18, resnet50, squeezenet1_1, vgg16
from layershift.train.models.word_lstm import word_lstm

MODELS: dict[str, Callable[..., nn.Module]] = {
    "moments_mlp": moments_mlp,
    "small_cnn": small_cnn,
    "cifar_resnet": cifar_resnet,
    "imagenet_resnet": imagenet_resnet,
    "cnn11": cnn11,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg16": vgg16,
    "squeezenet1_1": squeezenet1_1,
    "word_lstm": word_lstm,
}
"""Builders of networks; all options are keywords, and `in_channels`, `num_classes` and the like come from the data."""
