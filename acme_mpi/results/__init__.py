"""What return values become, and what they are known by again."""
