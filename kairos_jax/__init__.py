"""A world-action model: it imagines what happens next, and acts on it."""
