"""The jobs: prune, recover and apply, with their held-out evaluation and their records."""
