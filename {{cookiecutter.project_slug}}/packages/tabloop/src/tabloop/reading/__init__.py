"""From bytes to typed columns: one job a module."""
