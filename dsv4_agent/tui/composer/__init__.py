"""The input box: a text area with history, completion, paste chips and an external editor."""
