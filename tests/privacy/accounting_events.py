"""Events as the accounting tests write and draw them, and closed forms to hold the accountants to."""

import math

import numpy as np
from hypothesis import strategies as st
from scipy.stats import norm

from fedtune.privacy.events import Event


def event(sigma, rate=1.0, count=1, purpose="train"):
    return Event(noise_multiplier=sigma, sampling_rate=rate, count=count, purpose=purpose)


def events(most=4):
    """Lists of events of all sorts."""
    rates = st.one_of(st.just(1.0), st.floats(1e-3, 0.9))
    return st.lists(st.builds(event, st.floats(0.6, 20), rates, st.integers(1, 150)), min_size=1, max_size=most)


def gaussian(mu, epsilon):
    """δ of the Gaussian mechanism (Balle and Wang, arXiv 1805.06530, theorem 8)."""
    return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))


def sampled(sigma, rate, epsilon, *, added=False):
    """δ(ε) of one Poisson-sampled Gaussian at any real ε, by the point where the loss is ε; (points,) or a number."""
    epsilon = np.asarray(epsilon, dtype=np.float64)
    if added:  # δ of the pair in the other order
        return 1 - np.exp(epsilon) * (1 - sampled(sigma, rate, -epsilon))
    inner = (np.exp(epsilon) - (1 - rate)) / rate
    reached = inner > 0
    x = 0.5 + sigma**2 * np.log(np.where(reached, inner, 1))
    with_unit = (1 - rate) * norm.sf(x / sigma) + rate * norm.sf((x - 1) / sigma)
    return np.where(reached, with_unit - np.exp(epsilon) * norm.sf(x / sigma), 1 - np.exp(epsilon))


def sampled_pair(first, second, epsilon):
    """δ(ε) of two sampled Gaussians together by the trapezium rule over what the first shows."""
    (sigma, rate), z = first, np.linspace(-12, 12, 40_001)
    x = np.concatenate([sigma * z, 1 + sigma * z])
    weight = np.concatenate([(1 - rate) * norm.pdf(z), rate * norm.pdf(z)]) * (z[1] - z[0])
    loss = np.logaddexp(np.log1p(-rate), np.log(rate) + (x - 0.5) / sigma**2)
    return float(weight @ sampled(*second, epsilon - loss))
