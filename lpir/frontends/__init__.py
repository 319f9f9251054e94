"""Other formats, imported as the same IR."""
