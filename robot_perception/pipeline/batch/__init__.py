"""Many recordings: each done exactly once, whoever does it, and one report over all."""
