"""Real networks and photos that installed packages carry, for a first run without any download."""
