"""The empirical audit of a recipe: a simulation with canaries in it, and attacks on what it released."""
