"""Nouns of the OmniOPD pipeline: tables, params, plan, engines, teachers, objectives."""

import os

# read when pyarrow is imported: its own allocator keeps what was freed, a fifth of a rollout's peak
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
