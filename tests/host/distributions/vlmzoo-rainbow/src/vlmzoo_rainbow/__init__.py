"""A connector for vlmzoo: a gated perceptron on each image token."""
