"""The accountants by name: ε of events by privacy loss distributions, and beside it by Rényi divergences and PRV."""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from fedtune.errors import PrivacyError
from fedtune.privacy.accounting.composition import compose
from fedtune.privacy.accounting.groups import groups_of
from fedtune.privacy.events import Event

AccountantName = Literal["pld", "dp-accounting", "rdp", "prv"]
PRV_MOST = 50.0
"""ε up to which `prv` is asked. Opacus 1.6 was right within 0.015 up to ε = 200 and within 0.04 up to 700; but its grid
grows with ε and with the number of events, to half a minute at ε = 200 (10,000 steps) and 9 GB at ε = 340 (a million),
and where e^ε leaves the range of doubles it reports ε = 709.8 for whatever costs more, without an error."""


def epsilon_of(events: Sequence[Event], delta: float, accountant: AccountantName = "pld") -> float:
    """ε at `delta` of all events together; 0 for none, infinity where the accountant reaches no finite one.

    `pld` is what fedtune promises by: this package's own composition. The others are there to compare: `dp-accounting`
    (Google's PLD, on a grid of 1e-3, whose transform of doubles errs to either side in far tails), `rdp` (Rényi
    divergences by dp-accounting, arXiv 1702.07476) and `prv` (Opacus, arXiv 2106.02848; not beyond `PRV_MOST`). The
    accountant by the central limit theorem ("GDP" in Opacus) is left out on purpose: it approximates where the others
    bound, and reports up to 44 % less ε than is spent. PrivacyError for another name, a δ outside (0, 1), and what
    `prv` cannot compose.
    """
    if accountant not in _ACCOUNTANTS:
        raise PrivacyError(f'there is no accountant "{accountant}": take one of {", ".join(_ACCOUNTANTS)}')
    if not 0 < delta < 1:
        raise PrivacyError(f"delta must be more than 0 and less than 1, got {delta:g}")
    return _ACCOUNTANTS[accountant](events, delta) if events else 0.0


def delta_of(events: Sequence[Event], epsilon: float) -> float:
    """δ at ε >= 0 of all events together, by privacy loss distributions."""
    return compose(events).delta(epsilon)


def _pld(events: Sequence[Event], delta: float) -> float:
    return compose(events).epsilon(delta)


def _dp_accounting(events: Sequence[Event], delta: float) -> float:
    from dp_accounting.pld import privacy_loss_distribution as distributions

    total = distributions.identity(1e-3)
    for sigma, rate, count in groups_of(events):
        one = distributions.from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=1e-3)
        total = total.compose(one.self_compose(count))
    return float(total.get_epsilon_for_delta(delta))


def _rdp(events: Sequence[Event], delta: float) -> float:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    # It says on the console at which orders its series does not converge; those it leaves out.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        for sigma, rate, count in groups_of(events):
            gaussian = dp_accounting.GaussianDpEvent(sigma)
            sampled = gaussian if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, gaussian)
            accountant.compose(sampled, count)
        return float(accountant.get_epsilon(delta))
    finally:
        logger.setLevel(level)


def _prv(events: Sequence[Event], delta: float) -> float:
    spent = _pld(events, delta)
    if spent > PRV_MOST:
        raise PrivacyError(
            f"the accountant prv is not asked beyond ε = {PRV_MOST:g}, where it takes minutes and gigabytes and in the "
            f"end reports too little, and these events come to ε = {spent:.4g}: take pld"
        )
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, count) for sigma, rate, count in groups_of(events)]
    try:
        return float(accountant.get_epsilon(delta))
    except (ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise PrivacyError(f"the accountant prv cannot compose these events ({error}): take pld") from error


_ACCOUNTANTS: Mapping[str, Callable[[Sequence[Event], float], float]] = MappingProxyType(
    {"pld": _pld, "dp-accounting": _dp_accounting, "rdp": _rdp, "prv": _prv}
)
