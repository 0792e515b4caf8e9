"""Runs, and checkpoints, side by side: what sets them apart, and what the regularizer changes."""
