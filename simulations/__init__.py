"""Many virtual clients on one machine: the cohort Grid, partitioners, ready recipes."""
