"""Assembled models: one readable forward for each way in which image and text meet."""
