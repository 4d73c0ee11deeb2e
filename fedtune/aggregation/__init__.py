"""Aggregation: how updates become the next global state, one file a scheme."""
