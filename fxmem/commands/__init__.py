"""Commands on activations: `quantize` fits levels to one, `gallery` draws them all."""
