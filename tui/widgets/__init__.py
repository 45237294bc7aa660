"""Widgets of the terminal UI, one to a file."""
