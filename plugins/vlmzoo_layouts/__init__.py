"""First-party plugin of vlmzoo."""
