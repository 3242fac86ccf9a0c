"""The plug points into transformers: attention, experts, state, linear layers, rotary."""
