"""What a session remembers: the append-only transcript and the journal that can rebuild it."""
