"""What opens between transcript and composer: questions, choices, pages."""
