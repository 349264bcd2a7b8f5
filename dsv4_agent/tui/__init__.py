"""The Textual application: screens, widgets, theme."""
