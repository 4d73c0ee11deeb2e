"""The audit of privacy: an attack and statistical tests against what a run claims, and the report of both."""
