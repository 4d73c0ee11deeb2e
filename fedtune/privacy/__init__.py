"""Privacy: clipping, noise, sampling and accounting."""
