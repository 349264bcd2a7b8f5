"""Parts of the TUI benchmark."""
