"""CPU: compiles the lowered graph to native code."""
