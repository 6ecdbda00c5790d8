"""What tests ask of the versions that are installed; `make test-floors` installs the oldest."""

from __future__ import annotations

import pytest
import transformers

OLD = int(transformers.__version__.split(".")[0]) < 5
"""Whether this transformers is of the fourth series, which names some fields otherwise."""

needs_transformers_5 = pytest.mark.skipif(OLD, reason="transformers 5 does it otherwise")
