"""Data sets as Lightning data modules."""

from layershift.train.data.augment import CropFlip, crop_flip
from layershift.train.data.batches import EpochSampler, batches
from layershift.train.data.cifar import CIFAR10Data, CIFAR100Data
from layershift.train.data.coco import CocoData
from layershift.train.data.digit_pairs import DigitPairsData
from layershift.train.data.digits import DigitsData
from layershift.train.data.files import DataError
from layershift.train.data.image_table import ImageTableData
from layershift.train.data.imagenet import ImageNetData
from layershift.train.data.images import ImageData
from layershift.train.data.markov import MarkovWords
from layershift.train.data.mnist import FashionMNISTData, MNISTData
from layershift.train.data.multilabel import MultiLabelPhotographs, targets_of
from layershift.train.data.photographs import thumbnails, to_tensor
from layershift.train.data.preprocess import Standardize, Whiten, contrast_normalize
from layershift.train.data.registry import DATA
from layershift.train.data.split import stratified_order
from layershift.train.data.text import PTBData, WikiText2Data, WordData
from layershift.train.data.tiny_imagenet import TinyImageNetData
from layershift.train.data.voc import VOC2007Data

__all__ = [
    "DATA",
    "CIFAR10Data",
    "CIFAR100Data",
    "CocoData",
    "CropFlip",
    "DataError",
    "DigitPairsData",
    "DigitsData",
    "EpochSampler",
    "FashionMNISTData",
    "ImageData",
    "ImageNetData",
    "ImageTableData",
    "MNISTData",
    "MarkovWords",
    "MultiLabelPhotographs",
    "PTBData",
    "Standardize",
    "TinyImageNetData",
    "VOC2007Data",
    "Whiten",
    "WikiText2Data",
    "WordData",
    "batches",
    "contrast_normalize",
    "crop_flip",
    "stratified_order",
    "targets_of",
    "thumbnails",
    "to_tensor",
]
