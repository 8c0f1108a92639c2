"""Data by name."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import LightningDataModule

from layershift.train.data.cifar import CIFAR10Data, CIFAR100Data
from layershift.train.data.coco import CocoData
from layershift.train.data.digit_pairs import DigitPairsData
from layershift.train.data.digits import DigitsData
from layershift.train.data.image_table import ImageTableData
from layershift.train.data.imagenet import ImageNetData
from layershift.train.data.markov import MarkovWords
from layershift.train.data.mnist import FashionMNISTData, MNISTData
from layershift.train.data.text import PTBData, WikiText2Data
from layershift.train.data.tiny_imagenet import TinyImageNetData
from layershift.train.data.voc import VOC2007Data

DATA: dict[str, Callable[..., LightningDataModule]] = {
    "digits": DigitsData,
    "mnist": MNISTData,
    "fashion_mnist": FashionMNISTData,
    "cifar10": CIFAR10Data,
    "cifar100": CIFAR100Data,
    "tiny_imagenet": TinyImageNetData,
    "imagenet": ImageNetData,
    "digit_pairs": DigitPairsData,
    "coco": CocoData,
    "voc2007": VOC2007Data,
    "image_table": ImageTableData,
    "markov_words": MarkovWords,
    "ptb": PTBData,
    "wikitext2": WikiText2Data,
}
"""Called with batch_size and seed, and options of their own; torchvision is imported when it is needed."""
