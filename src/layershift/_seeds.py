"""Seeds made from several numbers."""

from __future__ import annotations

import numpy as np


def derive_seed(*parts: int) -> int:
    """A seed that differs, as good as surely, whenever one of the parts does.

    PyTorch's generator on the CPU looks at the lower 32 bits of a seed alone, so parts cannot be put side by side in
    one number; they are mixed.

    Args:
        parts: numbers that are not negative: a seed, an epoch, a rank.

    Returns:
        A number of 32 bits.

    Example:
        >>> derive_seed(1, 2) == derive_seed(1, 2), derive_seed(1, 2) == derive_seed(2, 1)
        (True, False)
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
