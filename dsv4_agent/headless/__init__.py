"""A task without a screen: `dsv4 run` with its text, JSON and stream-JSON output, exit codes and signals."""
