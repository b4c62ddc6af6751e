"""The weak device's side: sessions with destinations."""
