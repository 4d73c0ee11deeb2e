"""What `fedtune doctor` looks at: one small file a subject, each a function that lists its findings."""

from fedtune.cli.checks.devices import check_devices
from fedtune.cli.checks.finding import Finding, State, healthy
from fedtune.cli.checks.machine import check_machine, check_port
from fedtune.cli.checks.packages import check_extras, check_packages
from fedtune.cli.checks.store import check_store

__all__ = [
    "Finding",
    "State",
    "check_devices",
    "check_extras",
    "check_machine",
    "check_packages",
    "check_port",
    "check_store",
    "healthy",
]
