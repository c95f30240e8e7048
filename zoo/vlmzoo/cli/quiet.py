"""Commands show their own progress: the bars and notices that frameworks print beside it are switched off here."""


def quiet_frameworks() -> None:
    """Let transformers print errors only; called by commands that load models, never by the library."""
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
