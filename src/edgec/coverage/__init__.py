"""Which causal-LM families of transformers compile, measured against transformers itself."""
