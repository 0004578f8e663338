"""Judging models: benchmarks, scores and how sure they are, people's preferences, attacks, cost (chapters 17, 18)."""
