"""Searches for scales and widths: k-scaled clusters, the reparameterized state, budgets of bits; no model inside."""
