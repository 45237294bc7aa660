"""Dialogs of the terminal UI. What moves money has two steps: a preview, and an upper-case key."""
