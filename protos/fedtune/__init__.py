"""The protocol by version."""
