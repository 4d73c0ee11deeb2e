"""Accounting: what events of the plan cost together, from the distribution of their privacy loss."""

from fedtune.privacy.accounting.accountants import AccountantName, delta_of, epsilon_of
from fedtune.privacy.accounting.attack import Power, Risk, risk, risk_of, trade_off
from fedtune.privacy.accounting.calibration import calibrate
from fedtune.privacy.accounting.composition import compose
from fedtune.privacy.accounting.curves import Curve, curve, curve_of
from fedtune.privacy.accounting.gaussian import covering_mu, gaussian_epsilon
from fedtune.privacy.accounting.loss import Loss

__all__ = [
    "AccountantName",
    "Curve",
    "Loss",
    "Power",
    "Risk",
    "calibrate",
    "compose",
    "covering_mu",
    "curve",
    "curve_of",
    "delta_of",
    "epsilon_of",
    "gaussian_epsilon",
    "risk",
    "risk_of",
    "trade_off",
]
