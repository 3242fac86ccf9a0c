"""Families whose modelling code needs methods of edgec's own."""
