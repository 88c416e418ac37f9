"""Errors of kernels."""

CATEGORIES = ("", "bad argument", "undefined", "uninitialised", "capacity", "hazard", "deadlock", "unsupported",
              "unimplemented", "unspecified", "resource", "internal", "callback", "interrupted", "unavailable")

UNINITIALISED, UNSUPPORTED = CATEGORIES.index("uninitialised"), CATEGORIES.index("unsupported")


class NkiValidationError(Exception):
    """A kernel breaks a rule of the chip. The message names instruction, rule, values, remedy, file and line."""

    def __init__(self, message, category=2):
        super().__init__(message)
        self.category = CATEGORIES[category]


class NkiNameError(NotImplementedError, AttributeError):
    """A name that a module of NKI does not have here, which hasattr() may ask for."""


class NkiTypeError(NkiValidationError, TypeError):
    """A kernel does with a tile what Python does with numbers."""
