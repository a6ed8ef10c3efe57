"""Read results and write the report."""
