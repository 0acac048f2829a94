"""A docstring of something that nobody is told of."""

ERROR = "the request is refused all the same"
