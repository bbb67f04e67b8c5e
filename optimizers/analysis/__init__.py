"""Which stage and which agent gains or loses."""
