"""What happens to a question: layers, calls, replies."""
