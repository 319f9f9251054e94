"""REFERENCE: every operation through its NumPy reference."""
