"""The one exception that a user's mistake raises."""


class InputError(Exception):
    """Something the user gave is wrong: a file, a parameter, a dataset.

    The message is one line that names what is wrong, what is allowed and what to do. The command line
    prints it without a traceback and exits with status 1.
    """
