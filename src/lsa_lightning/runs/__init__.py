"""Run folders: what the entry points write, and how it is read back."""
