"""Converters of the catalogue's models: what a package holds becomes a plain Hugging Face folder."""
