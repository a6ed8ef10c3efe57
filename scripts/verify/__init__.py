"""Measure again in other ways, and check what the tests cannot."""
