"""What can go wrong, each said with the value found, the limit it broke and the remedy."""


class TumorscopeError(Exception):
    """Base of every error shown to a user as one line; the command ends with exit code 1."""


class InputRejected(TumorscopeError):
    """A file, archive or array that cannot or must not be read."""

    def __init__(self, what: str, value: object, limit: str, remedy: str) -> None:
        self.what, self.value, self.limit, self.remedy = what, value, limit, remedy
        super().__init__(f"{what}: {value}; {limit}. {remedy}")


class RecipeError(TumorscopeError):
    """A recipe with an unknown key, a wrong type or a value out of range: names the file, the key and what is allowed."""


class LossNotFinite(TumorscopeError):
    """A training whose loss became infinite or no number."""


class SplitLeak(TumorscopeError):
    """A fold with a slice, picture or patient on two sides."""


class DataNotFound(TumorscopeError):
    """No data at the place named, with where it was looked for and what to do."""


class RunMismatch(TumorscopeError):
    """A run folder that holds another recipe, other data or other library behaviour than what was asked to go on."""


class PackageMismatch(TumorscopeError):
    """A model package with a part missing, changed, or of another contract than its card says."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in its first line; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
