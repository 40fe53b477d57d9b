r"""Schedules: the Gaussian processes of the papers, each a pair of formulas in t.

    linear        log alpha^2 = -b_0 t - (b_1 - b_0) t^2 / 2                      variance preserving (Song 2021)
    cosine        alpha = cos(pi t / 2), sigma = sin(pi t / 2)                    variance preserving (Nichol 2021)
    by log-SNR    alpha^2 = 1 / (1 + e^-lambda(t)), sigma^2 = 1 / (1 + e^lambda)  variance preserving (Kingma 2021)
    exploding     alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t          (Song 2021)
    EDM           alpha = 1, sigma = t                                            (Karras 2022)
    flow          alpha = 1 - t, sigma = t                                        rectified (Liu 2023; Lipman 2023)

The continuous `linear` with b_0 = 0.1, b_1 = 20 is the limit of the thousand steps of DDPM (Ho 2020), beta from 1e-4 to
0.02.  The cosine here has neither the offset nor the clipping of the paper: `first` bounds the log-SNR instead.

Sources: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, 2020, https://arxiv.org/abs/2006.11239; Song et
al., 2021, https://arxiv.org/abs/2011.13456, appendix B; Nichol and Dhariwal, Improved DDPM, 2021,
https://arxiv.org/abs/2102.09672; Kingma et al., Variational Diffusion Models, 2021, https://arxiv.org/abs/2107.00630;
Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
https://arxiv.org/abs/2206.00364; Liu, Gong and Liu, Flow Straight and Fast, 2023, https://arxiv.org/abs/2209.03003;
Lipman et al., Flow Matching, 2023, https://arxiv.org/abs/2210.02747; Lin et al., Common Diffusion Noise Schedules and
Sample Steps are Flawed, 2024, https://arxiv.org/abs/2305.08891; Hoogeboom, Heek and Salimans, simple diffusion, 2023,
https://arxiv.org/abs/2301.11093.
"""

import math

import numpy as np

from genjax.corruption.gaussian import Function, Process, check_process, log_snr
from genjax.errors import BadInput


def linear(b_0: float = 0.1, b_1: float = 20.0, first: float = 1e-3) -> Process:
    """Variance preserving, noise added at a rate that grows linearly, b_0 + (b_1 - b_0) t.

    Args:
      b_0: rate at t = 0, > 0.
      b_1: rate at t = 1, >= b_0.
      first: smallest t, in (0, 1).

    Returns:
      Process of t in [first, 1].

    Raises:
      BadInput: rates that are not positive, or a range that is none.

    Source: Song et al., 2021, eq. 32.

    >>> process = linear()
    >>> round(float(process.alpha(np.float64(1.0)) ** 2), 8)  # exp(-10.05)
    4.319e-05
    """

    def log_alpha(t):
        return -0.25 * (b_1 - b_0) * t**2 - 0.5 * b_0 * t

    def sigma(t):  # 1 - alpha^2 without cancellation
        xp = t.__array_namespace__()
        return xp.sqrt(-xp.expm1(2.0 * log_alpha(t)))

    return check_process(Process(lambda t: t.__array_namespace__().exp(log_alpha(t)), sigma, first, 1.0))


def cosine(first: float = 1e-3, last: float = 0.999) -> Process:
    """Variance preserving, along a quarter of a circle: lambda = -2 log tan(pi t / 2).

    Args:
      first: smallest t, in (0, 1): lambda is 12.9 at 0.001.
      last: largest t, up to 1; at 1 no signal is left: only `data`, `v` or `velocity` can be predicted there.

    Returns:
      Process of t in [first, last].

    Raises:
      BadInput: a range that is none, or outside [0, 1].

    Source: Nichol and Dhariwal, 2021, eq. 17; without its offset Hoogeboom et al., 2023, section 3.1.

    >>> round(float(log_snr(cosine(), np.float64(0.5))), 6)
    0.0
    """
    _check_unit(first, last)

    def alpha(t):  # the sine of what is left, so that it is 0 at t = 1 in any precision
        return t.__array_namespace__().sin(0.5 * math.pi * (1.0 - t))

    return check_process(Process(alpha, lambda t: t.__array_namespace__().sin(0.5 * math.pi * t), first, last))


def by_log_snr(log_snr: Function, first: float = 0.0, last: float = 1.0) -> Process:
    """Variance preserving, with any log-SNR: a learned one too, made inside the loss from its parameters.

    Args:
      log_snr: lambda(t), falling.
      first: smallest t.
      last: largest t.

    Returns:
      Process; not checked, because a learned lambda may be under a trace: see `check_process`.

    Source: Kingma et al., 2021, section 3.2.

    >>> process = by_log_snr(lambda t: 13.0 - 18.0 * t)
    >>> round(float(process.alpha(np.float64(0.0)) ** 2 + process.sigma(np.float64(0.0)) ** 2), 6)
    1.0
    """

    def root_sigmoid(x):
        xp = x.__array_namespace__()
        return xp.exp(-0.5 * xp.logaddexp(xp.zeros_like(x), -x))

    return Process(lambda t: root_sigmoid(log_snr(t)), lambda t: root_sigmoid(-log_snr(t)), first, last)


def variance_exploding(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    """alpha = 1, sigma geometric in t.

    Args:
      sigma_min: at t = 0, > 0.
      sigma_max: at t = 1, above it.

    Returns:
      Process of t in [0, 1].

    Raises:
      BadInput: deviations that are not positive, or do not grow.

    Source: Song et al., 2021, eq. 31.

    >>> round(float(variance_exploding(1.0, 100.0).sigma(np.float64(0.5))), 6)
    10.0
    """
    _check_deviations(sigma_min, sigma_max)
    ratio = math.log(sigma_max / sigma_min)
    sigma = lambda t: sigma_min * t.__array_namespace__().exp(ratio * t)
    return check_process(Process(_one, sigma, 0.0, 1.0))


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """alpha = 1, sigma = t: time is the noise's deviation.

    Args:
      sigma_min: smallest t, > 0.
      sigma_max: largest t.

    Returns:
      Process of t in [sigma_min, sigma_max].

    Raises:
      BadInput: deviations that are not positive, or do not grow.

    Source: Karras et al., 2022, table 1.

    >>> edm().last
    80.0
    """
    _check_deviations(sigma_min, sigma_max)
    return check_process(Process(_one, lambda t: t, sigma_min, sigma_max))


def rectified_flow(first: float = 0.0, last: float = 1.0) -> Process:
    """alpha = 1 - t, sigma = t: straight lines from data to noise.

    Args:
      first: smallest t, in [0, 1).
      last: largest t, up to 1.

    Returns:
      Process of t in [first, last]; at t = 1 no signal is left.

    Raises:
      BadInput: a range that is none, or outside [0, 1].

    Source: Liu et al., 2023, eq. 1, whose time runs the other way.

    >>> float(rectified_flow().sigma(np.float64(0.25)))
    0.25
    """
    _check_unit(first, last)
    return check_process(Process(lambda t: 1.0 - t, lambda t: t, first, last))


def zero_terminal(process: Process) -> Process:
    """The same, with alpha moved and stretched so that nothing of the data is left at the end; variance preserving.

    Args:
      process: variance preserving.

    Returns:
      Process whose alpha is that of `process` at `first`, and 0 at `last`.

    Raises:
      BadInput: a process that does not preserve variance.

    Source: Lin et al., 2024, algorithm 1.

    >>> float(zero_terminal(linear()).alpha(np.float64(1.0)))
    0.0
    """
    ends = np.array([process.first, process.last])
    a_first, a_last = process.alpha(ends)
    if not np.allclose(process.alpha(ends) ** 2 + process.sigma(ends) ** 2, 1.0, atol=1e-6):
        raise BadInput(
            "zero_terminal of a process whose alpha^2 + sigma^2 is not 1",
            "allowed: variance preserving ones: linear, cosine, by_log_snr",
        )
    a_first, a_last = float(a_first), float(a_last)

    def alpha(t):  # not below 0, in any precision
        left = (process.alpha(t) - a_last) * (a_first / (a_first - a_last))
        return t.__array_namespace__().where(left < 0, 0.0 * left, left)  # keeps the slope at 0

    def sigma(t):
        return t.__array_namespace__().sqrt((1.0 - alpha(t)) * (1.0 + alpha(t)))

    return check_process(Process(alpha, sigma, process.first, process.last))


def shifted(process: Process, shift: float) -> Process:
    """Variance preserving, with the log-SNR of a process moved: more noise for larger pictures, whose pixels repeat.

    Args:
      process: any with signal left at `last` and noise at `first`.
      shift: added to lambda; 2 log(64 / d) for pictures of d pixels a side, when d = 64 is as it should be.

    Returns:
      Process.

    Raises:
      BadInput: a shift that is no number.

    Source: Hoogeboom et al., 2023, eq. 3.

    >>> float(log_snr(shifted(cosine(), -1.0), np.float64(0.5)).round(6))
    -1.0
    """
    if not math.isfinite(shift):
        raise BadInput(f"shift = {shift}", "allowed: a number, such as 2 log(64 / pixels)")
    return check_process(by_log_snr(lambda t: log_snr(process, t) + shift, process.first, process.last))


def _one(t):
    return t.__array_namespace__().ones_like(t)


def _check_deviations(sigma_min: float, sigma_max: float) -> None:
    if not (0 < sigma_min < sigma_max < math.inf):
        raise BadInput(f"sigma_min = {sigma_min}, sigma_max = {sigma_max}", "allowed: 0 < sigma_min < sigma_max")


def _check_unit(first: float, last: float) -> None:
    if not 0 <= first < last <= 1:
        raise BadInput(f"first = {first}, last = {last}", "allowed: 0 <= first < last <= 1")
