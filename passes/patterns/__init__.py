"""Patterns that passes look for in exported modules: operations that can share a dispatch."""
