"""A whole world-action model, grown from nothing in minutes."""
