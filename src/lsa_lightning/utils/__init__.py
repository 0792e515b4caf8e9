"""Helpers that know nothing of attacks, layers or runs."""
