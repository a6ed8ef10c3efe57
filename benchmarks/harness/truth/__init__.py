"""The checks: inputs that tell right from wrong, calls on them, and the comparison with the float64 reference."""
