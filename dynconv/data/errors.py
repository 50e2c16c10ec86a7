"""What goes wrong with data."""


class DataError(ValueError):
    """Data that is missing, unreadable or contradictory. The message says where it was looked for and what to do."""
