"""The event stream: what happened, numbered, for the terminal UI, `lnp watch` and tests."""
