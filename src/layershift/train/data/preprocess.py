"""From bytes to what a network sees: standardised pixels, or contrast-normalised and whitened images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 4096
"""Images at a time, where a whole data set in floating point would be too much."""

_NORM, _NUMBERS = 55.0, 3072


class Standardize(nn.Module):
    r"""Subtract a mean and divide by a standard deviation, those of the training images.

    Args:
        mean: (C, 1, 1), or (C, H, W) where each pixel has its own.
        std: of the same shape.

    Example:
        >>> standardize = Standardize(torch.tensor([[[2.0]]]), torch.tensor([[[4.0]]]))
        >>> standardize(torch.full((1, 1, 1, 1), 10, dtype=torch.uint8))
        tensor([[[[2.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, images: Tensor, *, each_pixel: bool = False) -> Standardize:
        """The statistics of images (N, C, H, W), over samples and positions, or over samples alone.

        A pixel that is the same in all images is not divided: it has nothing to tell.
        """
        dims = (0,) if each_pixel else (0, 2, 3)
        n = len(images) * (1 if each_pixel else images[0, 0].numel())
        total = torch.zeros((), dtype=torch.float64, device=images.device)
        squares = torch.zeros_like(total)
        for chunk in torch.split(images, CHUNK):
            total = total + chunk.double().sum(dims, keepdim=True)[0]
            squares = squares + chunk.double().square().sum(dims, keepdim=True)[0]
        mean = total / n
        std = (squares / n - mean.square()).clamp(min=0).sqrt()
        return cls(mean.float(), torch.where(std > 0, std, 1.0).float())

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any dtype, in float32."""
        return (images.float() - self.mean) / self.std


def contrast_normalize(images: Tensor) -> Tensor:
    r"""Global contrast normalisation: of each image its mean is taken away, and its norm made the same.

    $$x \mapsto s \, (x - \bar x) / \lVert x - \bar x \rVert$$

    with s = 55 for the 3,072 numbers of a CIFAR image, and in proportion to the root of their number for others, so
    that a number is about 1 in size. An image of one colour becomes 0.

    Args:
        images: (N, C, H, W), of any dtype.

    Returns:
        float32, of the same shape.

    References:
        I. Goodfellow et al., "Maxout networks", 2013, https://arxiv.org/abs/1302.4389, and their code in pylearn2.

    Example:
        >>> contrast_normalize(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)).flatten(1).norm(dim=1)
        tensor([55.0000, 55.0000])
    """
    flat = images.flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    scale = _NORM * math.sqrt(flat.shape[1] / _NUMBERS)
    return (scale * F.normalize(flat, dim=1, eps=1e-8)).view(images.shape)


class Whiten(nn.Module):
    r"""ZCA: decorrelate all numbers of an image and turn back, so that it still looks like itself.

    $$x \mapsto (\Sigma + \epsilon I)^{-1/2} (x - \mu)$$

    Where Σ has an eigenvalue λ, whitened training data have the variance λ/(λ + ε).

    Args:
        mean: (d,).
        matrix: (d, d), symmetric.

    References:
        A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, appendix A.
        ε = 0.1 is that of pylearn2, with which Goodfellow et al. (2013) and those who followed them whitened.

    Example:
        >>> x = torch.randn(1000, 1, 2, 2) * torch.tensor([[1.0, 5.0], [2.0, 3.0]])
        >>> torch.allclose(Whiten.fit(x, epsilon=0.0)(x).flatten(1).T.cov(correction=0), torch.eye(4), atol=1e-5)
        True
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @classmethod
    def fit(cls, images: Tensor, *, epsilon: float = 0.1) -> Whiten:
        """The mean and the covariance of images (N, C, H, W) of floats.

        Products of 4,096 images are made in the images' own precision and added up in double precision.
        """
        flat = images.flatten(1)
        mean = flat.mean(0)
        covariance = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64, device=flat.device)
        for chunk in torch.split(flat, CHUNK):
            centred = chunk - mean
            covariance += centred.T @ centred
        values, vectors = torch.linalg.eigh(covariance / len(flat))
        roots = (values.clamp(min=0) + epsilon).rsqrt()
        return cls(mean, ((vectors * roots) @ vectors.T).to(flat.dtype))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of floats, whitened."""
        return ((images.flatten(1) - self.mean) @ self.matrix).view(images.shape)


def shrink(images: Tensor, side: int) -> Tensor:
    """Smaller images, each pixel the mean of the area that it covers, rounded to bytes.

    Args:
        images: uint8, (N, C, H, W).
        side: the new height and width.

    Returns:
        uint8, (N, C, side, side).

    Example:
        >>> shrink(torch.tensor([[[[0, 100], [50, 250]]]], dtype=torch.uint8), 1)
        tensor([[[[100]]]], dtype=torch.uint8)
    """
    chunks = (F.interpolate(chunk.float(), (side, side), mode="area") for chunk in torch.split(images, CHUNK))
    return torch.cat([chunk.round().to(torch.uint8) for chunk in chunks])


def stretch(images: Tensor) -> Tensor:
    """Images to look at: the range of each, from its least to its largest number, as bytes from 0 to 255.

    Args:
        images: (N, C, H, W) of floats.

    Returns:
        uint8, of the same shape; 0 where an image has one number only.

    Example:
        >>> stretch(torch.tensor([[[[-1.0, 0.0], [0.0, 4.0]]]]))
        tensor([[[[  0,  51],
                  [ 51, 255]]]], dtype=torch.uint8)
    """
    low, high = (end.view(-1, 1, 1, 1) for end in images.flatten(1).aminmax(dim=1))
    return (255 * (images - low) / torch.where(high > low, high - low, 1.0)).round().to(torch.uint8)
