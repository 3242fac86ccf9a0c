"""The computation: configurations, HF's modelling code with edgec's plug points, weights."""
