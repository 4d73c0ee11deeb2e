"""The cohort engine: many clients' rows go through the frozen base in one pass, each with an adapter of its own."""
