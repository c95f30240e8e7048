"""What a part wants to say about a plan: that something is assumed which this machine does not know."""


class Note(UserWarning):
    """Warn with it (`warnings.warn(Note(...))`): a plan shows it among its notes. Words without a full stop at their end."""
