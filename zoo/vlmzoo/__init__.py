"""Assemble, train and compare vision-language models from parts found through entry points."""
