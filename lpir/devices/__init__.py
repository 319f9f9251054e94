"""Devices. Each is loaded by name and imported by nobody."""
