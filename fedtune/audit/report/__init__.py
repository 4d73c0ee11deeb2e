"""The audit report: JSON and one HTML page about a run, from its ledger alone, and their verification."""
