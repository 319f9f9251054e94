"""What runs a model: devices by name, sessions."""
