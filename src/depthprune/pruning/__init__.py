"""The jobs, one a verb that measures or writes, with held-out evaluation and their records."""
