"""Nouns of the OmniOPD pipeline: tables, params, plan, engines, teachers, objectives."""
