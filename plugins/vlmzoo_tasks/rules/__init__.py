"""The rules of mixtures: each changes what a dataset gives, and a recipe lists them under `rules:` of its data."""
