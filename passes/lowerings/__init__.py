"""Passes that lower edgec's operators, and parts of exported modules, a file each."""
