"""Ready recipes: TOML files that run by their names, and teach what a recipe can say."""
