"""What every front end needs around a conversation: the model, the repository, failures, harmless text."""
