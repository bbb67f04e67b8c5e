"""The run of a program on one question: layers, calls and replies."""
