"""The screens of the terminal UI, one to a file, each with its style beside it."""
