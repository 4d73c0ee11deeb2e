"""Estimators: lower bounds on ε at a stated confidence, from the scores of canaries. Pure functions."""

from fedtune.audit.estimators.bound import Assumption, Bound, Estimate
from fedtune.audit.estimators.clopper_pearson import clopper_pearson, epsilon_from_counts
from fedtune.audit.estimators.cosine import cosine_bound, cosine_estimate
from fedtune.audit.estimators.one_run import one_run, one_run_against
from fedtune.audit.estimators.one_run_fdp import curve_p_value, one_run_fdp, one_run_gaussian
from fedtune.audit.estimators.reach import reach
from fedtune.audit.estimators.scores import Scores

__all__ = [
    "Assumption",
    "Bound",
    "Estimate",
    "Scores",
    "clopper_pearson",
    "cosine_bound",
    "cosine_estimate",
    "curve_p_value",
    "epsilon_from_counts",
    "one_run",
    "one_run_against",
    "one_run_fdp",
    "one_run_gaussian",
    "reach",
]
