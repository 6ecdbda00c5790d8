"""A loaded model's blocks: where they are, how to call one, and what goes from one to the next."""
