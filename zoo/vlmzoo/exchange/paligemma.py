"""PaliGemma (arXiv:2407.07726, 2412.03555): one matrix, and a decoder whose prompt is read in both directions."""
