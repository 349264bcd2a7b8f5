"""The kinds of block: each turns its own state into rows and knows nothing of the widget."""
