"""Where Triton's kernels can run, and how they are started.

Triton comes with PyTorch's builds for GPUs. It is imported when the first tensor arrives that it could serve.
"""

from __future__ import annotations

import importlib.util
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

# Tests set it, with Triton's interpreter: kernels then run on CPU tensors, thousands of times slower than PyTorch.
ON_CPU = False

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def available(x: Tensor) -> bool:
    """Whether Triton's kernels can take a tensor, and nobody asks what operations they consist of.

    Compilers, `torch.func`, tensors without numbers and modes that watch operations need PyTorch's own operations.

    Args:
        x: any tensor.

    Returns:
        Whether it lies on a GPU that Triton serves, in half, single or double precision, and can be handed over as it
        is. Whether Triton works is tried once for each device: it needs a compiler of C, and says so if it fails.

    Example:
        >>> available(torch.zeros(3))
        False
    """
    return (
        not torch.compiler.is_compiling()
        and (x.is_cuda or ON_CPU)
        and x.dtype in _DTYPES
        and type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and works(x.device)
    )


@cache
def works(device: torch.device) -> bool:
    """Whether a kernel compiles and runs on a device, tried with numbers of the narrowest kind; a failure warns."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        from layershift.functional.row_kernels import affine

        x = torch.ones(1, 1, 1, dtype=torch.bfloat16, device=device)
        one = torch.ones(1, 1, device=device)
        tables, strides, sizes = (one, one, one), (1,) * 9, (1,) * 4
        with on_device(x):
            affine[(1,)](x, x, *tables, *strides, *sizes, ROWS=1, COLS=1, UNIT=1, BIG=False, enable_fp_fusion=True)
    except Exception as error:
        warnings.warn(f"{device}: Triton does not work, PyTorch's operations do its part: {error}", stacklevel=2)
        return False
    return True


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Make the device of a tensor the one that kernels are started on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def power_of_two(n: int) -> int:
    """The smallest power of two that is not smaller, as the sizes of tiles have to be.

    Example:
        >>> [power_of_two(n) for n in (1, 2, 3, 49)]
        [1, 2, 4, 64]
    """
    return 1 << max(n - 1, 0).bit_length()


def warps(tile: int) -> int:
    """How many warps share a tile of so many numbers: at least 8 numbers a thread, at most 8 warps."""
    return min(max(tile // 256, 1), 8)
