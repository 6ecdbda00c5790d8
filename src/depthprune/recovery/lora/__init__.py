"""Recovery by training: adapters, or the last blocks, distilled from the whole model."""
