"""A job of ``lsa-train``: made from its configuration, run, gone on with after an interruption, and ended."""
