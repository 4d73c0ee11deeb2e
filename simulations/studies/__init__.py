"""Studies: many small simulations that compare methods, on packaged models and data, with their figures."""
