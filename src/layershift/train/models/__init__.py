"""The networks of the papers, each with its normaliser as an argument."""

from layershift.train.models.cnn import small_cnn
from layershift.train.models.cnn11 import cnn11
from layershift.train.models.imagenet_resnet import imagenet_resnet
from layershift.train.models.mlp import moments_mlp
from layershift.train.models.multiscale import (
    crop_scores,
    dense_scores,
    fully_convolutional,
    multi_scale_crops,
    training_divisors,
)
from layershift.train.models.norms import GROUPINGS, group_norm
from layershift.train.models.parts import Norm, NormName, NormWithOptions, he_init, make_norm, weight_layers
from layershift.train.models.registry import MODELS
from layershift.train.models.resnet import cifar_resnet
from layershift.train.models.torchvision_networks import resnet18, resnet50, squeezenet1_1, vgg16
from layershift.train.models.word_lstm import WordLSTM, word_lstm

__all__ = [
    "GROUPINGS",
    "MODELS",
    "Norm",
    "NormName",
    "NormWithOptions",
    "WordLSTM",
    "cifar_resnet",
    "cnn11",
    "crop_scores",
    "dense_scores",
    "fully_convolutional",
    "group_norm",
    "he_init",
    "imagenet_resnet",
    "make_norm",
    "moments_mlp",
    "multi_scale_crops",
    "resnet18",
    "resnet50",
    "small_cnn",
    "squeezenet1_1",
    "training_divisors",
    "vgg16",
    "weight_layers",
    "word_lstm",
]
