r"""The two-layer network with population batch normalisation, and its plain twin.

$$f(x)=\frac1m\sum_{k=1}^ma_k\,\sigma(\bar b_k^Tx),\qquad\bar b_k=\frac{b_k}{\sqrt{b_k^T\Sigma b_k}},
\qquad\Sigma=E\,xx^T.$$

Dividing by $\sqrt{b^T\Sigma b}$ is batch normalisation if $E\,x=0$, which the paper assumes. If the inputs have a mean,
centre them first (`Problem.of(…, center=True)`, `second_moment(x, center=True)`, or a streaming network's `center`).
Without that, neurons are divided by the root mean square of what they see, and nothing is subtracted; all the geometry
holds for that too, as for any positive definite $\Sigma$.

References:
    C. Ma, L. Ying, 2021, "A Riemannian mean field formulation for two-layer neural networks with batch normalization",
    eq. 1 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layershift._checks import (
    accumulation_dtype,
    check,
    check_choice,
    check_count,
    check_device,
    check_dtype,
    check_floating,
    check_not_empty,
    check_rank,
    check_same_kind,
    check_seed,
)
from layershift.dynamics.losses import ACTIVATIONS, Activation, activate
from layershift.dynamics.metric import to_ellipsoid


def second_moment(x: Tensor, *, center: bool = False) -> Tensor:
    r"""The matrix $\Sigma=\frac1n\sum_ix_ix_i^T$ of a sample, about its mean if asked.

    Args:
        x: samples, shape `(n, d)`.
        center: whether to take the mean off first, which makes it the covariance (divided by $n$).

    Returns:
        $\Sigma$ of shape `(d, d)`.

    Raises:
        TypeError: if `x` is not floating point.
        ValueError: if it has another shape or no row.

    Example:
        >>> second_moment(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        tensor([[5., 0.],
                [0., 0.]])
    """
    check_floating("x", x)
    check_rank("x", x, (2,), "(n, d)")
    check_not_empty("x", x)
    x = x.to(accumulation_dtype(x))
    x = x - x.mean(0) if center else x
    return x.mT @ x / len(x)


class TwoLayer(nn.Module):
    r"""The plain network $f_0(x)=\frac1m\sum_ka_k\sigma(b_k^Tx)$.

    Args:
        d: the inputs' dimension.
        m: the number of neurons.
        activation: "relu", "leaky_relu", "tanh" or "softplus".
        a: output weights, shape `(m,)`; standard normal by default.
        b: input weights, shape `(m, d)`; uniform on the unit sphere by default.
        seed: of the random weights.
        dtype: of the random weights; by default that of those given.

    Raises:
        ValueError: if a shape does not fit, or the activation is unknown.

    Example:
        >>> network = TwoLayer(3, 100)
        >>> network(torch.randn(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        d: int,
        m: int,
        *,
        activation: Activation = "relu",
        a: Tensor | None = None,
        b: Tensor | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.activation: Activation = activation
        device = None
        for argument, given in (("a", a), ("b", b)):
            if given is not None:
                check_floating(argument, given)
                dtype, device = dtype or given.dtype, given.device
        drawn_a, drawn_b = random_particles(d, m, seed=seed, dtype=dtype, device=device)
        self.a = nn.Parameter(_checked("a", a, drawn_a))
        self.b = nn.Parameter(_checked("b", b, drawn_b))
        check_same_kind("a", self.a, self.b)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions of shape `(n,)` for inputs of shape `(n, d)`."""
        self._check(x)
        return self._predict(x, self.b)

    def _check(self, x: Tensor) -> None:
        check_floating("x", x, self.b)
        check(x.dim() == 2 and x.shape[1] == self.b.shape[1], "x", f"shape (n, {self.b.shape[1]})", x)
        if x.dtype != self.b.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"x: expected {self.b.dtype}, as the neurons have, got {x.dtype}")

    def _predict(self, x: Tensor, b: Tensor) -> Tensor:
        return activate(x @ b.mT, self.activation) @ self.a / len(self.a)


class TwoLayerBN(TwoLayer):
    r"""The network with population batch normalisation, $f(x)=\frac1m\sum_ka_k\sigma(\bar b_k^Tx)$.

    The population's $\Sigma$ is given, estimated beforehand (`second_moment`), or streamed: without `sigma`, each batch
    in training mode joins a running mean over all samples so far, and that mean is what the network uses. Its state is
    in the buffers `sigma`, `mean` and `seen`, and so in the state dictionary.

    Args:
        d: the inputs' dimension.
        m: the number of neurons.
        sigma: $\Sigma$, shape `(d, d)`; None to stream it.
        center: of a streaming network, whether to stream the mean as well and subtract it.
        activation: "relu", "leaky_relu", "tanh" or "softplus".
        a: output weights, shape `(m,)`; standard normal by default.
        b: input weights, shape `(m, d)`; uniform on the unit sphere by default.
        seed: of the random weights.
        dtype: of the random weights; that of `sigma` by default.

    Raises:
        TypeError: if `sigma` is not floating point.
        ValueError: if a shape does not fit, the activation is unknown, or `center` is asked with a given `sigma`.
        RuntimeError: on a forward pass before any batch was streamed.

    Example:
        >>> network = TwoLayerBN(2, 100, sigma=torch.diag(torch.tensor([5.0, 1.0])))
        >>> twin = network.plain()
        >>> x = torch.randn(4, 2)
        >>> torch.allclose(network(x), twin(x))
        True
    """

    sigma: Tensor
    mean: Tensor
    seen: Tensor

    def __init__(
        self,
        d: int,
        m: int,
        *,
        sigma: Tensor | None,
        center: bool = False,
        activation: Activation = "relu",
        a: Tensor | None = None,
        b: Tensor | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        if sigma is not None:
            check_floating("sigma", sigma)
            check_count("d", d, "a dimension, 1 or more")
            check(sigma.shape == (d, d), "sigma", f"shape ({d}, {d})", sigma)
            check(not center, "center", "False with a given sigma (centre the inputs instead)", center)
            dtype = dtype or sigma.dtype
        super().__init__(d, m, activation=activation, a=a, b=b, seed=seed, dtype=dtype)
        if sigma is not None:
            check_same_kind("sigma", sigma, self.b)
        self.streaming, self.center = sigma is None, center
        like = self.b.detach()
        self.register_buffer("sigma", like.new_zeros(d, d) if sigma is None else sigma.detach().clone())
        self.register_buffer("mean", like.new_zeros(d))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Predictions of shape `(n,)` for inputs of shape `(n, d)`; a streaming network in training takes them in."""
        self._check(x)
        if self.streaming and self.training:
            self.update(x)
        return self._predict(x - self.mean if self.center else x, self.directions())

    def directions(self) -> Tensor:
        r"""The normalised neurons $\bar b$, shape `(m, d)`."""
        if self.streaming and self._is_new():
            raise RuntimeError("sigma: expected a batch in training mode first, got none")
        return to_ellipsoid(self.b, self.sigma)

    def plain(self) -> TwoLayer:
        r"""The plain network with neurons $\bar b$: the same function (of centred inputs), other dynamics."""
        d, m = self.b.shape[1], self.b.shape[0]
        a, b = self.a.detach().clone(), self.directions().detach()
        return TwoLayer(d, m, activation=self.activation, a=a, b=b)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take the rows of a batch into the running mean and second moment."""
        check(self.streaming, "sigma", "None, so that the network streams it", "a given matrix")
        moment, x = second_moment(x, center=self.center), x.detach()
        self.seen += len(x)
        share = (len(x) / self.seen).to(self.sigma.dtype)
        self.sigma.lerp_(moment.to(self.sigma), share)
        if self.center:  # the parallel update of a mean and a covariance
            gap = x.mean(0) - self.mean
            self.sigma += share * (1 - share) * gap[:, None] * gap
            self.mean += share * gap
        self._updated = True

    def _is_new(self) -> bool:
        """Whether no batch came; after a first one the buffer is not read again."""
        if not getattr(self, "_updated", False):
            self._updated = bool(self.seen > 0)
        return not self._updated


def random_particles(
    d: int, m: int, *, seed: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    r"""Random neurons: $a$ standard normal, $b$ uniform on the unit sphere.

    Args:
        d: the inputs' dimension.
        m: the number of neurons.
        seed: of the draw.
        dtype: PyTorch's default by default.
        device: where the result goes; the draw is made on the CPU, so that it is the same everywhere.

    Returns:
        $a$ of shape `(m,)` and $b$ of shape `(m, d)`.

    Raises:
        ValueError: if `d` or `m` is not positive.

    Example:
        >>> a, b = random_particles(3, 5, seed=1)
        >>> b.norm(dim=1)
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """
    check_count("d", d, "a dimension, 1 or more")
    check_count("m", m, "a number of neurons, 1 or more")
    check_seed("seed", seed)
    check_dtype("dtype", dtype)
    check_device("device", device)
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(m, generator=generator, dtype=dtype)
    b = nn.functional.normalize(torch.randn(m, d, generator=generator, dtype=dtype), dim=1)
    return a.to(device), b.to(device)


def _checked(argument: str, given: Tensor | None, drawn: Tensor) -> Tensor:
    if given is None:
        return drawn
    check_floating(argument, given)
    check(given.shape == drawn.shape, argument, f"shape {tuple(drawn.shape)}", given)
    return given.detach().clone()
