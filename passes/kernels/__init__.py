"""CPU kernels as passes see them: one table of declarations, and the MLIR that calls them."""
