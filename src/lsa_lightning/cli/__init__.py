"""The entry points: lsa-train, lsa-analyze, lsa-evaluate, lsa-report."""
