"""The quantities of a row: times, first calls and bytes, of an operator and of a training step."""
