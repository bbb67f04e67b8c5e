"""Analysis of stages and agents: score, gain and cost of each."""
