"""Experts: finished adapters as small files, and what is composed of several of them (arXiv 2311.13171)."""
