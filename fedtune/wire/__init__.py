"""Messages as bytes: versioned, bounded, checked."""
