"""Load on `dsv4 serve`: many streaming clients for minutes."""
