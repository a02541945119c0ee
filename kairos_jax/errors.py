"""The one error a user sees: a line that says what is wrong, the value, and what is allowed."""


class KairosError(Exception):
  """Something the user can put right; the command line prints it as one line and exits with 2."""
