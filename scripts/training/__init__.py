"""Compare and train the networks outside asv."""
