"""The terminal UI: a program of the user that knows a node only through its encrypted gateway."""
