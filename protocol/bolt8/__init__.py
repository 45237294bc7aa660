"""The encrypted transport: handshake and frames, without I/O and without the node's key (BOLT 8)."""
