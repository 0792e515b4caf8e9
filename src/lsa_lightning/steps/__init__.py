"""A user's step on adversarial examples: what it gives the model, its two passes, and what they leave as it was."""
