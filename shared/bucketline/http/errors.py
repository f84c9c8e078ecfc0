"""Why a request to a stranger's address was not made, or not answered."""

from bucketline.errors import BucketlineError

MAX_DETAIL_CHARACTERS = 500


class AddressRefused(BucketlineError):
    """The guard said no. One wording for every reason: which part was refused would map the private network.

    ``detail`` is for our own logs.
    """

    retryable = False

    def __init__(self, *, detail: str) -> None:
        super().__init__("the address is not allowed")
        self.detail = detail[:MAX_DETAIL_CHARACTERS]


class PostFailed(BucketlineError):
    """There was no answer. ``message`` names nothing but what its receiver could see; ``detail`` is for our logs."""

    retryable = False

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail[:MAX_DETAIL_CHARACTERS]
