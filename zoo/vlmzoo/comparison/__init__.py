"""Comparing combinations of parts: a grid of recipes under one budget, each trained by a process of its own."""
