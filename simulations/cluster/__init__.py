"""Virtual clients on the machines of a Ray cluster."""
