"""The wire protocol, sans-I/O: messages, frames and the order of both. Explained in docs/protocol.md."""
