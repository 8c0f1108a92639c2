"""Kummer's function against SciPy, and the series of PER against both."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from numpy.polynomial import polynomial

from layershift.functional.kummer import gamma_ratio, kummer_half, radial_scale, radial_series

Z = np.array([0.0, 1e-12, 1e-3, 0.5, 1.0, 4.0, 20.0])


@pytest.mark.parametrize("b", [0.5, 1.0, 1.5, 2.0, 5.5, 40.0, 325.0, 5e6])
def test_small_arguments_agree_with_scipy(b) -> None:
    np.testing.assert_allclose(kummer_half(b, Z), scipy.special.hyp1f1(0.5, b, -Z), rtol=3e-13)


@pytest.mark.parametrize("b", [1.0, 2.5, 50.0])
def test_large_arguments_approach_the_asymptotic_series(b) -> None:
    z = 1e11
    expected = scipy.special.gamma(b) / scipy.special.gamma(b - 0.5) / np.sqrt(z) if b < 60 else None
    np.testing.assert_allclose(kummer_half(b, np.array(z)), expected, rtol=1e-8)


@pytest.mark.parametrize("b", [0.5, 3.0, 99.9, 100.1, 1e4, 5e6])
def test_the_ratio_of_gamma_functions_has_no_seam(b) -> None:
    assert gamma_ratio(b) == pytest.approx(scipy.special.poch(b, 0.5), rel=2e-13 if b < 1e3 else 1e-9)


@pytest.mark.parametrize("d", [1, 2, 3, 8, 64, 650, 10**7])
def test_the_series_is_the_function(d) -> None:
    s = np.array([0.0, 1e-6, 0.3, 1.0, 3.0, 10.0]) * max(d, 8)
    c = radial_scale(d)
    p = polynomial.polyval((s - c) / (s + c), radial_series(d, 2e-12))
    w = np.sqrt(1 + s / c)
    upper = kummer_half(d / 2 + 1, s / 2)
    np.testing.assert_allclose(p[1] / w, upper, rtol=1e-11)
    np.testing.assert_allclose(p[0] * w, kummer_half(d / 2, s / 2) + s / d * upper, rtol=1e-11)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"b: expected a number of at least 1/2, got 0\.2"):
        kummer_half(0.2, Z)
    with pytest.raises(ValueError, match="d: expected a dimension of at least 1, got 0"):
        radial_series(0, 1e-7)
