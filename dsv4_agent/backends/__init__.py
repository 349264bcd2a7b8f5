"""Where tokens come from: in-process, scripted, or a policy written in Python."""
