"""Make the environments that the other commands run in."""
