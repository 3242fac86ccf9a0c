"""Coverage of the causal-LM families of transformers, measured against transformers itself."""
