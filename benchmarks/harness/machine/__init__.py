"""Facts about the machine and the software, free memory, threads, and the GPU's state."""
