"""The networks of the papers, each with its normaliser as an argument."""

from layershift.train.models.cnn import small_cnn
from layershift.train.models.mlp import moments_mlp
from layershift.train.models.parts import NormName, he_init, make_norm
from layershift.train.models.resnet import cifar_resnet

__all__ = ["NormName", "cifar_resnet", "he_init", "make_norm", "moments_mlp", "small_cnn"]
