"""Assignments that grade themselves: their sources, and the engine that grades a class without trusting it."""
