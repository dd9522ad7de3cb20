"""How good and how fast: panels, leaderboards, throughput."""
