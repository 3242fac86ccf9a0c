"""Finding a model by its name: hub, folder, package, bundled, preset; and its tokenizer."""
