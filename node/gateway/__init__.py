"""The native RPC: the encrypted door of the node for the terminal UI, and nothing but what stands in its table."""
