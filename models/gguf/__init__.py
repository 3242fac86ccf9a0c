"""GGUF files: header, configuration, weights, tokenizer."""
