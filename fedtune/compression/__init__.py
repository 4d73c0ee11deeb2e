"""Compression: the stages of an upload, one file each."""
