"""The pages of ``lsa-report``: one about a run, one that compares runs."""
