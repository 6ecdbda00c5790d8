"""Recovery by training: adapters that are distilled from the whole model and merged."""
