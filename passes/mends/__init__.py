"""Passes for what torch.export and IREE leave wrong, or slower than it need be."""
