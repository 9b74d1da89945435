"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake of the user's: one sentence that says what was wrong, with the value, and what to do.

    The command line prints it as a single line and exits with status 2. The bare packages (model, tokenizer,
    objective, generation, evaluation) raise ValueError instead, so that they stay usable without gptlab around them.
    """
