"""From FakeQuantize to integer arithmetic."""
