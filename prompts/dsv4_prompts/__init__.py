"""Every word that the model reads and that is not wire format."""
