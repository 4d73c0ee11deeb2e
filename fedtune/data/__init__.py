"""Data: a file, a folder or a packaged set becomes encoded rows."""
