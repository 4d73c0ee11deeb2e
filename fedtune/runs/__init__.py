"""Run folders: what a run leaves behind, written safely, read back, drawn."""
