"""The report as one self-contained HTML page, for whoever answers for the data."""
