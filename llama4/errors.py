"""The one exception of this package that means "the input is at fault, not the program".

Its message is one sentence: what is wrong, where, and what to do next. The command line prints it and exits with 2;
everything else that is raised is a bug and keeps its traceback.
"""


class InputError(ValueError):
    """Bad input: a file, a configuration, a prompt, an image or an argument that cannot be used as it stands."""
