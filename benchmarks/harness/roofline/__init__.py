"""The limits of the machine: streaming loops and matrix products."""
