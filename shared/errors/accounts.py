"""Errors of accounts, invitations and memberships. The portal and the CLI show their text."""

from shared.errors.base import RelayError


class SignUpClosed(RelayError):
    """This instance takes no new accounts without an invitation."""

    def __init__(self) -> None:
        super().__init__("This Relay takes new accounts by invitation only.")


class AccountNotFound(RelayError):
    """No account has this address."""

    def __init__(self, email: str) -> None:
        super().__init__(f"No account has the address {email!r}.")


class AddressTaken(RelayError):
    """An account with this e-mail address exists."""

    def __init__(self) -> None:
        super().__init__("An account with this address exists already.")


class InvitationUnusable(RelayError):
    """The link does not exist, was used or withdrawn, or has expired."""

    def __init__(self) -> None:
        super().__init__("This link was used or withdrawn, or has expired.")


class TooManyInvitations(RelayError):
    """A project, or the instance, already has ``limit`` open invitations."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"There are {limit} open invitations, the most that are possible. Withdraw some first.")


class TooManyProjects(RelayError):
    """An account already owns ``limit`` projects."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"You own {limit} projects, the most that an account can own. Archive some first.")


class LastOwner(RelayError):
    """A project would be left without an owner."""

    def __init__(self) -> None:
        super().__init__("A project needs at least one owner. Make somebody else an owner first.")
