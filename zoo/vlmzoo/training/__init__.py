"""Training: which parts move, the optimizer and its schedule, and the loop."""
