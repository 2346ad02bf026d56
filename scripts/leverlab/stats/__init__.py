"""Statistics over replicates. docs/statistics.md says how they are used, and what they cannot say."""
