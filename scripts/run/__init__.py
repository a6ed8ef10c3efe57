"""Measure and compare with asv."""
