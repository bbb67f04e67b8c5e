"""What calls cost, and what may be spent."""
