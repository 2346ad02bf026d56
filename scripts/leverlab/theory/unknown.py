"""What theory says where something that it needs is not known."""


class NotKnownError(ValueError):
    """A quantity cannot be computed. The message is a clause that says what is missing, and where it would stand."""


class DoesNotApplyError(NotKnownError):
    """Nothing is missing: the server, the model or the load is not of the kind that the quantity speaks of."""
