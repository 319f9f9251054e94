"""The graph: element types, shapes, operations, nodes and models."""
