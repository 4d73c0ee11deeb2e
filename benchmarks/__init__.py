"""Benchmarks: what the framework costs, side by side with others, in one run each."""
